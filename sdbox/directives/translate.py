"""What a directive's value becomes: properties of the unit, and files of its cgroup.

Signatures are those of systemd's dbus-cgroup.c, dbus-scope.c, dbus-kill.c and dbus-unit.c.
"""

from __future__ import annotations

import os

from sdbox.properties import CgroupFile, UnitProperty
from sdbox.values import INFINITY, Percent
from sdbox.values.names import bitmask, format_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def unit_property(name: str, signature: str) -> Callable[[Any], tuple[UnitProperty, ...]]:
    """The value as it is, as property `name`."""
    return lambda value: (UnitProperty(name=name, signature=signature, value=value),)


def unit_number(name: str) -> Callable[[Any], tuple[UnitProperty, ...]]:
    """A number as property `name`; a percentage has to be resolved before."""
    return lambda value: (UnitProperty(name=name, signature="t", value=int(value)),)


def quota_property(value: Percent) -> tuple[UnitProperty, ...]:
    """A share of one CPU as microseconds in a second."""
    return unit_number("CPUQuotaPerSecUSec")(_quota_usec(value))


def weight_property(value: int | str) -> tuple[UnitProperty, ...]:
    """A weight; systemd's CGROUP_WEIGHT_IDLE is 0."""
    return unit_number("CPUWeight")(0 if value == "idle" else value)


def word_property(name: str, *, since: int) -> Callable[[bool], tuple[UnitProperty, ...]]:
    """A boolean as the word that property `name` takes, which systemd has since a version."""
    return lambda value: (
        UnitProperty(name=name, signature="s", value="yes" if value else "no", since=since),
    )


def cpus_property(name: str) -> Callable[[tuple[int, ...]], tuple[UnitProperty, ...]]:
    """CPUs as systemd's bit mask."""
    return lambda value: unit_property(name, "ay")(bitmask(value))


def rates_property(name: str) -> Callable[[Any], tuple[UnitProperty, ...]]:
    """Paths and bytes a second."""
    return lambda value: unit_property(name, "a(st)")([list(pair) for pair in value])


def addresses_property(name: str) -> Callable[[tuple[str, ...]], tuple[UnitProperty, ...]]:
    """Addresses and prefixes as systemd's structs."""

    def translate(value: tuple[str, ...]) -> tuple[UnitProperty, ...]:
        from sdbox.values import addresses  # here, for what it imports

        return addresses.property_of(name, value)

    return translate


def devices_property(value: tuple[tuple[str, str], ...]) -> tuple[UnitProperty, ...]:
    """Nodes or groups, and what may be done."""
    return unit_property("DeviceAllow", "a(ss)")([list(rule) for rule in value])


_FIREWALL, _DEVICES = ("ingress", "egress"), ("device",)


def firewall_of(value: tuple[str, ...]) -> tuple[str, ...]:
    """The programs on the cgroup that keep a list of addresses, as systemd attaches them."""
    return _FIREWALL if value else ()


def device_program_of(value: tuple[tuple[str, str], ...] | str) -> tuple[str, ...]:
    """The program that keeps a policy or rules for devices; `auto` alone allows all."""
    return _DEVICES if value and value != "auto" else ()


def cgroup_file(
    name: str, contents: Callable[[Any], str]
) -> Callable[[Any], tuple[CgroupFile, ...]]:
    """One file, `name`, and how its contents say the value."""
    return lambda value: (CgroupFile(name=name, contents=contents(value)),)


def pages(value: int) -> str:
    """Bytes as the kernel gives them back: it counts in pages, and rounds a limit down."""
    page = os.sysconf("SC_PAGE_SIZE")
    return number_or_max(value if value == INFINITY else value // page * page)


def ranges(cpus: tuple[int, ...]) -> str:
    """CPUs as the kernel writes them."""
    return ",".join(format_cpus(cpus))


def number_or_max(value: int) -> str:
    """A number as the kernel writes it, `max` for no limit."""
    return "max" if value == INFINITY else str(value)


def _quota_usec(value: Percent) -> int:
    """Microseconds of CPU time in a second."""
    return value.permyriad * 100


def cpu_max(value: Percent) -> str:
    """Quota and period as systemd's cgroup.c chooses them, in microseconds."""
    # A period of 100 ms, longer where the quota would be below the kernel's 1 ms, at most 1 s.
    quota = _quota_usec(value)
    period = min(max(100_000, 1_000 * 1_000_000 // quota), 1_000_000)
    return f"{max(quota * period // 1_000_000, 1_000)} {period}"


def weight_files(value: int | str) -> tuple[CgroupFile, ...]:
    """`idle` has a file of its own."""
    if value == "idle":
        return (CgroupFile(name="cpu.idle", contents="1"),)
    return (CgroupFile(name="cpu.weight", contents=str(value)),)
