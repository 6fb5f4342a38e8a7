"""Capabilities by name, and what a sequence of assignments of them comes down to. Pure.

An assignment is text as systemd.exec(5) has it for CapabilityBoundingSet=: names, with a `~` in
front of them for all others. What is empty there, no capability at all, is `none` here.
"""

from __future__ import annotations

from sdbox.values import WHITESPACE, Refused, as_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NONE = "none"
ALL = (1 << 64) - 1

# By their numbers: linux/capability.h, Linux 6.12.
_NAMES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid"),
    *("setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw"),
    *("ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct"),
    *("sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod"),
    *("lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog"),
    *("wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"),
)
_NUMBERS = {f"CAP_{name.upper()}": number for number, name in enumerate(_NAMES)}


def bit(name: str) -> int:
    """The bit of a capability."""
    return 1 << _NUMBERS[name]


def assignment(raw: object) -> str:
    """One assignment, its names as they are usually written."""
    text = as_text(raw).strip(WHITESPACE)
    if text in ("", NONE):
        return NONE
    if not text.isprintable():
        raise Refused
    sign = "~" if text.startswith("~") else ""
    return sign + " ".join(_known(word) for word in text.removeprefix("~").split())


def _known(word: str) -> str:
    name = word.upper()
    if name not in _NUMBERS:
        raise Refused("is no capability", "capabilities(7) lists them")
    return name


def fold(assignments: Iterable[str]) -> tuple[str, ...]:
    """The assignments without those that a later one empties."""
    kept: list[str] = []
    for one in assignments:
        if one in (NONE, "~"):
            kept = []
        kept.append(one)
    return tuple(kept)


def bounding(assignments: Iterable[str]) -> int:
    """The bits of CapabilityBoundingSet=: all, where nothing is said of one."""
    return _mask(assignments, ALL)


def ambient(assignments: Iterable[str]) -> int:
    """The bits of AmbientCapabilities=: none, where nothing is said of one."""
    return _mask(assignments, 0)


def _mask(assignments: Iterable[str], initial: int) -> int:
    """The bits, as systemd adds assignments up (load-fragment.c, config_parse_capability_set)."""
    mask = initial
    for text in assignments:
        inverted = text.startswith("~")
        names = "" if text == NONE else text.removeprefix("~")
        given = sum(map(bit, set(names.split())))
        if given == 0 or mask == initial:
            mask = ALL & ~given if inverted else given
        else:
            mask = mask & ~given if inverted else mask | given
    return mask
