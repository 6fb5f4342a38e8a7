"""The way from inside a nestable box to its supervisor: a socket, on a file system of its own.

Only the box has it among its mounts, and nobody can write there. Who asks what through it is the
supervisor's to judge: see `sdbox.door`.
"""

from __future__ import annotations

import os
import socket

from sdbox.init import syscalls
from sdbox.init.steps import step

DIRECTORY = "/run/sdbox-box"
SOCKET = f"{DIRECTORY}/socket"

_BACKLOG = 128
_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_OPTIONS = {"mode": "0755", "size": "4k", "nr_inodes": "8"}


def listen() -> tuple[socket.socket, int]:
    """Return a socket that listens, and the detached mount that it is to be found on."""
    with step("Nestable"):
        mount = syscalls.new_mount("tmpfs", _ATTRIBUTES, **_OPTIONS)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _bind(listener, mount)
        listener.listen(_BACKLOG)
        syscalls.mount_setattr(mount, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
        return listener, mount


def _bind(listener: socket.socket, mount: int) -> None:
    # By a relative path, since nothing else leads to a mount that is not attached yet.
    before = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.fchdir(mount)
        listener.bind(os.path.basename(SOCKET))
        os.chmod(os.path.basename(SOCKET), 0o666)  # noqa: S103 - whoever is in the box may ask
        os.fchdir(before)
    finally:
        os.close(before)
