"""Whether the box that this process is in is a nestable one, and what there is to know of it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from typing import Any

from sdbox import errors
from sdbox.errors import ManagerRefused, ManagerUnavailable, SdboxError
from sdbox.init import wire
from sdbox.init.nest import sockets
from sdbox.plan.slices import slice_path

# The other side answers at once, unless it is frozen, and then so is this one.
_HELLO_SECONDS = 60
_TIMEVAL = struct.Struct("@ll")
_NO_ANSWER = "See whether the supervisor of the box around still runs, and how busy it is"
# What connect(2) says where there is no socket, where nobody has it any more, and where this user
# can't enter the place, which is that of root's boxes.
_NO_DOOR = (FileNotFoundError, ConnectionRefusedError, PermissionError)
# What comes back as what it was.
_ERRORS: dict[str, type[SdboxError]] = {
    name: getattr(errors, name)
    for name in ("LaunchFailed", "TimedOut", "InvalidDirective", "Unenforceable")
}


def find_door() -> tuple[str, dict[str, Any]] | None:
    """Return the socket of the box around, and what ask_who() returns; None if it has none."""
    answers = ((path, ask_who(path)) for path in sockets())
    return next(((path, known) for path, known in answers if known is not None), None)


def ask_who(path: str) -> dict[str, Any] | None:
    """Return what the box around says of itself; None where it is not nestable.

    That is its manager's `version` and `cgroup_root`, the `slice` that jobs in it are in, and the
    `prefix` of their ids. Raises ManagerUnavailable.
    """
    try:
        sock = connected(path)
    except _NO_DOOR:
        return None
    except OSError as error:
        raise ManagerUnavailable(f"{path}: {error.strerror}", hint=_NO_ANSWER) from None
    with sock:
        answer = _greeted(path, sock)
    if answer is None:
        return None
    known: dict[str, Any] = value(answer)
    place = known["cgroup_root"] + slice_path(known["slice"])
    if not os.path.isdir(place):
        raise ManagerUnavailable(
            f"{place}: the cgroups of this box can't be seen in it",
            hint="Bind them: --bind /sys/fs/cgroup",
        )
    return known


def _greeted(path: str, sock: socket.socket) -> bytes | None:
    """Say hello; return the answer, None where the door is not for this process."""
    sock.settimeout(_HELLO_SECONDS)
    try:
        # Who has been turned away by now finds why.
        with contextlib.suppress(BrokenPipeError):
            wire.send(sock, 1, "hello", "[]")
        fields, fds = wire.receive(sock)
    except OSError as error:
        raise ManagerUnavailable(f"{path}: {error}", hint=_NO_ANSWER) from None
    wire.close(fds)
    # It is hung up on who is in a box inside of that one.
    return fields[1] if len(fields) == 2 else None


def value(answer: bytes) -> Any:
    """Return what an answer has, or raise its error."""
    document = json.loads(answer)
    if "error" not in document:
        return document["value"]
    kind, message, hint = document["error"], document["message"], document["hint"]
    if kind == "ManagerRefused":
        raise ManagerRefused(message, name=document["name"], hint=hint)
    raise _ERRORS.get(kind, ManagerUnavailable)(message, hint=hint)


def connected(path: str) -> socket.socket:
    """Return a connection to a box's supervisor. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Where many are waiting to be let in, connect(2) does, too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_HELLO_SECONDS, 0))
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
