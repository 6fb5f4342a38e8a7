"""Messages between supervisor, helper and init: fields with NUL between them, descriptors beside.

Init shares its box with the payload, so what comes from it is parsed as if the payload had
written it: no pickle or marshal, bounded sizes, descriptors closed on exec.
"""

from __future__ import annotations

import array
import marshal
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What `sdbox run` calls its plan and its launch, of which it has one each.
PLAN, LAUNCH = "plan", "launch"

_LARGEST = 16384
_MOST_FDS = 16


def send(sock: socket.socket, *fields: bytes | str | int, fds: tuple[int, ...] = ()) -> None:
    """Send one message. Numbers and text are written as text; no field may hold a NUL."""
    data = b"\0".join(_encode(field) for field in fields)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def receive(sock: socket.socket) -> tuple[list[bytes], list[int]]:
    """Return one message's fields and descriptors; no fields when the other side is gone."""
    fields, fds, whole = read(sock, _MOST_FDS)
    if not whole:
        close(fds)
        raise ValueError("a message was cut short")
    return fields, fds


def read(sock: socket.socket, most: int, flags: int = 0) -> tuple[list[bytes], list[int], bool]:
    """Return as receive(), with `most` descriptors, and whether that was all of the message."""
    size, flags = socket.CMSG_LEN(most * 4), flags | socket.MSG_CMSG_CLOEXEC
    try:
        data, ancillary, got, _ = sock.recvmsg(_LARGEST, size, flags)
    except ConnectionResetError:
        # The other side has gone without reading all. That is told once, and before what it sent.
        data, ancillary, got, _ = sock.recvmsg(_LARGEST, size, flags)
    whole = not got & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
    return (data.split(b"\0") if data else []), _descriptors(ancillary), whole


def close(fds: list[int]) -> None:
    """Close descriptors that came with a message and are not wanted."""
    for fd in fds:
        os.close(fd)


def _encode(field: bytes | str | int) -> bytes:
    if isinstance(field, bytes):
        return field
    return os.fsencode(str(field))


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def spec(memory: int) -> dict[str, Any]:
    """Read what a supervisor has left for an init of its own.

    It runs the same Python: marshal is there without an import, and keeps bytes as they are.
    """
    with open(memory, "rb", closefd=False) as file:
        file.seek(0)
        given: dict[str, Any] = marshal.load(file)  # noqa: S302
        return given
