"""The descriptors that a forked process has of its parent, and must not keep."""

from __future__ import annotations

import os

from sdbox.init import syscalls


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    try:
        first = 0
        for kept in sorted(keep):
            if kept > first:
                syscalls.close_range(first, kept - 1)
            first = kept + 1
        syscalls.close_range(first)
    except OSError:
        # Who filters system calls may not know it (Linux 5.9).
        _close_listed(keep)


def _close_listed(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                # The descriptor that listed the directory.
                pass
