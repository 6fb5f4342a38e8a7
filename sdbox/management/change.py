"""What changing the box of a running job comes down to. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.box import Box
from sdbox.directives import DIRECTIVES
from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.record import record
from sdbox.values import INFINITY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdbox.host.facts import Host
    from sdbox.properties import CgroupFile, UnitProperty

# Of systemd's properties that are no limit, what its bus_unit_set_live_property() takes.
_LIVE = ("Description",)


@record
class Change:
    """Properties to set, files of the cgroup to read back, and the box that the job then has."""

    properties: tuple[UnitProperty, ...]
    files: tuple[CgroupFile, ...]
    box: Mapping[str, Any]


def changeable() -> list[str]:
    """Return the directives that systemd can change while a job runs."""
    rows = DIRECTIVES.values()
    return [row.name for row in rows if row.unit and (row.controller or row.name in _LIVE)]


def make_change(change: Box, before: Mapping[str, Any], host: Host, systemd_version: int) -> Change:
    """Return what it takes to change a job with the box `before`. Raises Unenforceable.

    As at the launch, MemoryMax without a word about swap is no swap.
    """
    for name in (*change.directives, *change.resets):
        _check(name, host)
    _check_version(change, systemd_version)
    known = _known(before)
    _check_cpus(change, known)
    merged = known.merge(change)
    totals = {"memory": host.memory_total_bytes, "tasks": host.tasks_total}
    values: dict[str, Any] = dict.fromkeys(change.resets, ())
    values |= change.resolve(totals).directives
    if "MemoryMax" in values and "MemorySwapMax" not in merged.directives:
        values["MemorySwapMax"] = merged.with_defaults().directives.get("MemorySwapMax", INFINITY)
    return Change(
        properties=tuple(p for name, value in values.items() for p in _properties(name, value)),
        files=tuple(
            file for name, value in values.items() for file in DIRECTIVES[name].read_back(value)
        ),
        box=merged.to_json(),
    )


def _known(box: Mapping[str, Any]) -> Box:
    """Return a remembered box, or an empty one for what is none: a job may have written it."""
    try:
        return Box.from_json(box)
    except InvalidDirective:
        return Box()


def _check_version(change: Box, systemd_version: int) -> None:
    for name, value in change.directives.items():
        needed = DIRECTIVES[name].needs_version(value)
        if needed > systemd_version:
            raise Unenforceable(
                f"{name}: systemd {systemd_version} can't set it", hint=f"It needs systemd {needed}"
            )


def _check_cpus(change: Box, before: Box) -> None:
    """Leave a job on the CPUs that it holds: others may hold those that are asked for."""
    changed = {*change.directives, *change.resets}
    if "AllowedCPUs" in changed and "AssignedCPUs" in before.directives:
        raise Unenforceable(
            "AllowedCPUs: the job has CPUs of its own, by AssignedCPUs",
            hint="`sdbox cpus` tells which; others take another job",
        )


def _check(name: str, host: Host) -> None:
    row = DIRECTIVES[name]
    if name not in changeable():
        raise Unenforceable(
            f"{name}: it can't be changed while the job runs",
            hint=f"What can be is {', '.join(changeable())}",
        )
    if row.controller is not None and row.controller not in host.controllers:
        kept = "is kept by the job's supervisor here" if row.watch else "can't be kept here"
        raise Unenforceable(
            f"{name}: it {kept}, as this host has no {row.controller} controller for its units",
            hint=f"`sdbox doctor` tells what keeps {row.controller} away",
        )


def _properties(name: str, value: Any) -> tuple[UnitProperty, ...]:
    to_properties = DIRECTIVES[name].unit
    return () if to_properties is None else to_properties(value)
