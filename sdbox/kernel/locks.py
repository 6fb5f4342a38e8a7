"""Locks on single bytes of files (fcntl(2), open file description locks), and who can see them.

Such a lock is a descriptor's, with all its copies in whatever processes: it is there until the last
of them is closed, and the kernel closes them with the processes.
"""

from __future__ import annotations

import fcntl
import os
import struct

LIST = "/proc/locks"

# struct flock, of which type, whence, start and length are of use.
_LOCK = struct.Struct("hhqqi0q")
# The kernel hands out its list a page at a time, and what is taken off it in between moves the
# rest: a line may be missing in one reading. Nothing is in the list that is not locked.
_READINGS = 2


def take(fd: int, place: int) -> None:
    """Lock the byte at that offset, for writing. Raises BlockingIOError."""
    _set(fd, place, fcntl.F_WRLCK)


def leave(fd: int, place: int) -> None:
    """Undo take()."""
    _set(fd, place, fcntl.F_UNLCK)


def _set(fd: int, place: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, place, 1, 0))


def is_taken(fd: int, place: int) -> bool:
    """Whether another descriptor has a lock on the byte."""
    asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    kind = _LOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    return bool(kind != fcntl.F_UNLCK)


def listed(status: os.stat_result) -> frozenset[int]:
    """Return where a file has locks for writing, also if it can't be opened. Raises OSError.

    By proc_locks(5), which knows a file by the numbers of its file system and its own. Those of
    ext4, xfs and tmpfs are what stat(2) says; an overlay or btrfs may have others.
    """
    device = status.st_dev
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    return frozenset(place for _ in range(_READINGS) for place in _places(file))


def _places(file: str) -> list[int]:
    with open(LIST, encoding="utf-8", errors="replace") as lines:
        found = [line.split() for line in lines if file in line]
    # Its number, kind, whether it is mandatory, type, PID, file, start and end; who waits for a
    # lock has an arrow after the number.
    return [int(w[6]) for w in found if (w[1], w[3], w[5]) == ("OFDLCK", "WRITE", file)]
