"""The way from inside a nestable box to its supervisor: a socket, on a file system of its own.

Only the box has it among its mounts, and nobody can write there. Who asks what through it is the
supervisor's to judge: see `sdbox.nesting.door`.

Where it is mounted there has to be a directory, which outside of the box is seen as well. It is
there for as long as a box has it locked: to remove it would take the mounts from all that do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time

from sdbox.init import syscalls
from sdbox.init.steps import step

DIRECTORY = "/run/sdbox-box"
# Of an ordinary user, who can make none there.
_USERS_DIRECTORY = "/run/user/{}/sdbox-box"
_SOCKET = "socket"
SOCKET = f"{DIRECTORY}/{_SOCKET}"

# Who has it locked against others only looks and removes it.
_LOCK_SECONDS = 10.0
_LOCK_RETRY_SECONDS = 0.01

_BACKLOG = 128
_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_OPTIONS = {"mode": "0755", "size": "4k", "nr_inodes": "8"}


def directory() -> str:
    """Return where this user's boxes have the socket; in a box that root has started, root's."""
    uid = os.geteuid()
    return DIRECTORY if uid == 0 or os.path.exists(SOCKET) else _USERS_DIRECTORY.format(uid)


def sockets() -> tuple[str, ...]:
    """Return where a socket may be for a process in a box."""
    return SOCKET, f"{_USERS_DIRECTORY.format(os.geteuid())}/{_SOCKET}"


def reserve(path: str) -> int:
    """Make the directory, if there is none; return a descriptor by which it is locked."""
    with step("Nestable", path):
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            fd = _opened(path)
            if fd is not None and _is_locked(fd, path):
                return fd
            if fd is not None:
                os.close(fd)
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
            time.sleep(_LOCK_RETRY_SECONDS)


def _opened(path: str) -> int | None:
    """Return a descriptor of the directory; None where it has been removed meanwhile."""
    try:
        # Others are not to lock it, nor root in a box without the right to open what it may not.
        os.mkdir(path, 0 if os.geteuid() == 0 else 0o700)
    except FileExistsError:
        pass
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _is_locked(fd: int, path: str) -> bool:
    """Lock it with all others; return whether it is still what is there."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


def remove_unused(path: str) -> None:
    """Remove the directory, if nobody has it locked any more."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            os.rmdir(path)
    except OSError:
        # Others have it, are at it, or are boxes inside of this one, who see a mount there.
        pass
    finally:
        os.close(fd)


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
        listener.bind(_SOCKET)
        os.chmod(_SOCKET, 0o666)  # noqa: S103 - whoever is in the box may ask
        os.fchdir(before)
    finally:
        os.close(before)
