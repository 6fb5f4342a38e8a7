"""What the payload's process gives up, each before the next would need it: rights and system calls.

Capabilities are sets of bits, as in /proc/PID/status.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from sdbox.init import syscalls

# The kernel has no more of them: its sets have 64 bits.
_MOST = 64


def _bounding_set(*, keep: int, ambient: bool) -> None:
    """Keep no others than these, now or by any exec to come; `ambient` ones outlive setuid(2)."""
    for number in range(_MOST):
        if not keep & 1 << number and not _dropped(number):
            break
    # What is inherited joins the permitted ones at exec, past the bounding set.
    effective, permitted, inheritable = syscalls.capget()
    syscalls.capset(effective, permitted, inheritable & keep)
    if ambient:
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)


def _dropped(number: int) -> bool:
    """Drop one, and return whether the kernel has it."""
    try:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _ambient(*, keep: int) -> None:
    """Have these, and those alone, from now on and after exec."""
    syscalls.capset(keep, keep, keep)
    for number in _bits(keep):
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)


def _bits(mask: int) -> Iterator[int]:
    return (number for number in range(_MOST) if mask & 1 << number)


def _call_filter(*, programs: list[bytes]) -> None:
    for program in programs:
        syscalls.load_call_filter(program)


OPERATIONS: dict[str, Callable[..., None]] = {
    "CapabilityBoundingSet": _bounding_set,
    "AmbientCapabilities": _ambient,
    "SystemCallFilter": _call_filter,
}
