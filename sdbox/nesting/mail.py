"""What strangers send: messages, and with them descriptors of whatever they like.

Who closes the last descriptor of a TCP connection that lingers, or any of a file on FUSE, may wait
for as long as its owner likes. So does who takes a message with such a one and has no use for it,
or closes a socket that has it in its queue. Nothing here does so in an event loop.
"""

from __future__ import annotations

import contextlib
import os
import socket
from _thread import start_new_thread
from typing import TYPE_CHECKING

from sdbox.init import wire

if TYPE_CHECKING:
    from collections.abc import Callable

# What the kernel calls it, which no path can be like: those begin with a slash.
_PROCESS = "anon_inode:[pidfd]"


def receive(sock: socket.socket) -> tuple[list[bytes], list[int], bool]:
    """Return a message's fields, its descriptor, and whether it is fit to be looked at.

    One that is not, since it has more descriptors, or one of no process, stays where it is: its
    socket is to be closed. Raises OSError.
    """
    # The queue has it as well, so that whatever is dropped here is not the last.
    fields, fds, whole = wire.read(sock, 1, socket.MSG_PEEK)
    fit = whole and all(map(_is_process, fds))
    if fit and fields:
        sock.recv(1)
    return fields, fds, fit


def _is_process(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == _PROCESS
    except OSError:
        return False


def close(fd: int, closed: Callable[[], object]) -> None:
    """Close a descriptor in a thread of its own, which calls `closed` then.

    Each in its own, since the one may be what another waits for. None of them is waited for when
    this process ends.
    """
    # Where no thread is to be had it stays open, and for the caller it is.
    with contextlib.suppress(RuntimeError):
        start_new_thread(_close, (fd, closed))


def _close(fd: int, closed: Callable[[], object]) -> None:
    # What its owner has to say of it: it is closed all the same.
    with contextlib.suppress(OSError):
        os.close(fd)
    closed()
