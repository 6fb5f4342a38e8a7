"""inotify(7): what tells of changes of files without looking again and again."""

from __future__ import annotations

import contextlib
import ctypes
import os

IN_ATTRIB = 0x0004
IN_CLOSE_WRITE = 0x0008
IN_DELETE = 0x0200
IN_ONLYDIR = 0x01000000

_libc = ctypes.CDLL(None, use_errno=True)
# struct inotify_event with the longest name, and many of them.
_READ_BYTES = 65536


class Inotify:
    """A descriptor that can be read when something happened; `with` closes it."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))

    def add(self, path: str, events: int) -> None:
        """Have events (IN_…) of a file told."""
        _checked(_libc.inotify_add_watch(self.fd, os.fsencode(path), ctypes.c_uint32(events)))

    def drain(self) -> None:
        """Forget what happened: whoever looks for himself needs only to be woken."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, _READ_BYTES)

    def __enter__(self) -> Inotify:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
