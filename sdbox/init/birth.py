"""What is made for a box before its init is there, and the fork of that."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sdbox.init import syscalls
from sdbox.init.spare import become_init
from sdbox.init.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sdbox.init.private import Private
    from sdbox.init.quota import Project


def fork(
    spec: dict[str, Any],
    fds: Sequence[int],
    directories: dict[str, Private],
    guardians: tuple[int, int],
) -> int:
    """Fork an init; with PrivatePIDs= it is the first process of a new PID namespace."""
    private_pids = spec["private_pids"]
    if spec["user_namespace"]:
        return _fork_as_user(spec, fds, directories, guardians)
    if private_pids:
        with step("PrivatePIDs"):
            syscalls.unshare(syscalls.CLONE_NEWPID)
    try:
        with step("fork"):
            pid = os.fork()
        if pid == 0:
            become_init(spec, fds, directories, guardians)
        return pid
    finally:
        if private_pids:
            # Children are born in this process's own namespace again.
            syscalls.setns(guardians[1], syscalls.CLONE_NEWPID)


def _fork_as_user(
    spec: dict[str, Any],
    fds: Sequence[int],
    directories: dict[str, Private],
    guardians: tuple[int, int],
) -> int:
    """The same, with all namespaces in one of its user's."""
    from sdbox.init import userns

    with step("fork"):
        pid = userns.fork() if spec["private_pids"] else os.fork()
    if pid == 0:
        become_init(spec, fds, directories, guardians)
    return pid


def reserve_door(spec: dict[str, Any]) -> list[int]:
    """Settle where a nestable box has its way out; return what keeps that there for it."""
    from sdbox.init import nest

    spec["door"] = nest.directory()
    # A root directory has a /run of its own.
    return [] if spec["root_directory"] else [nest.reserve(spec["door"])]


def limit(project: Project, held: Sequence[int]) -> None:
    """Limit what a box will have on disk; one of what is held for it is a descriptor of there."""
    from sdbox.init import quota

    quota.begin(held, project)


def verified(path: str) -> tuple[int, int]:
    """Return what a path leads to that nobody but root can change, as long as it can be told."""
    from sdbox.init.secure import open_directory

    fd = open_directory(path)
    status = os.fstat(fd)
    os.close(fd)
    return status.st_dev, status.st_ino
