"""inotify(7): what tells of changes of files without looking again and again."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

IN_ATTRIB = 0x0004
IN_CLOSE_WRITE = 0x0008
IN_DELETE = 0x0200
IN_ONLYDIR = 0x01000000

# The watch of the event that says that others were dropped.
OVERFLOW = -1

_libc = ctypes.CDLL(None, use_errno=True)
# struct inotify_event with the longest name, and many of them.
_READ_BYTES = 65536
# Its watch, mask, cookie, and the length of the name that follows.
_EVENT = struct.Struct("=iIII")


class Inotify:
    """A descriptor that can be read when something happened; `with` closes it."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def add(self, path: str, events: int) -> int:
        """Have events (IN_…) of a file told; return the watch, the same for the same file."""
        mask = ctypes.c_uint32(events)
        return _checked(_libc.inotify_add_watch(self.fd, os.fsencode(path), mask))

    def drain(self) -> None:
        """Forget what happened: whoever looks for himself needs only to be woken."""
        self._read()

    def events(self) -> Iterator[tuple[int, str]]:
        """Return what happened: the watch, and the name of what it happened to in a directory."""
        data = self._read()
        start = 0
        while start < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, start)
            name = data[start + _EVENT.size : start + _EVENT.size + length]
            yield watch, os.fsdecode(name.rstrip(b"\0"))
            start += _EVENT.size + length

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)

    def _read(self) -> bytes:
        try:
            return os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return b""

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
