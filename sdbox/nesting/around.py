"""Whether the box that this process is in is a nestable one, and what there is to know of it."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from sdbox.errors import ManagerUnavailable
from sdbox.init import wire
from sdbox.init.nest import sockets
from sdbox.nesting import slice_path

# The other side answers at once, unless it is frozen, and then so is this one.
_HELLO_SECONDS = 60.0


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
        with connected(path) as sock:
            sock.settimeout(_HELLO_SECONDS)
            wire.send(sock, 1, "hello", "[]")
            fields, fds = wire.receive(sock)
    except OSError:
        return None
    wire.close(fds)
    if len(fields) != 2:
        # Not for this process, which is in a box inside of that one, or for too many.
        return None
    known: dict[str, Any] = json.loads(fields[1])["value"]
    place = known["cgroup_root"] + slice_path(known["slice"])
    if not os.path.isdir(place):
        raise ManagerUnavailable(
            f"{place}: the cgroups of this box can't be seen in it",
            hint="Bind them: --bind /sys/fs/cgroup",
        )
    return known


def connected(path: str) -> socket.socket:
    """Return a connection to a box's supervisor. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock
