"""What the helper knows of one box."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sdbox.init import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdbox.init.private import Private
    from sdbox.init.quota import Project


class Child:
    """One init, and after its end the rm of its directories. `pid` is 0 if systemd forked it.

    `held` are descriptors that are kept open until nothing of the box runs; of a box with a project
    one of them is on its file system.
    """

    __slots__ = (
        *("cgroup", "directories", "door", "finishing", "held", "orphans", "pid", "pidfd"),
        *("project",),
    )

    def __init__(
        self,
        pid: int,
        pidfd: int,
        directories: dict[str, Private],
        held: Sequence[int],
        project: Project | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.directories = directories
        self.orphans = False
        self.held = [os.dup(fd) for fd in held]
        self.project = project
        self.cgroup = -1
        self.finishing = False
        # The directory that is removed with the last box that holds it.
        self.door = ""

    def let_go(self) -> None:
        """Close what was held, and let the box's project be without a limit."""
        if self.project is not None:
            give_up_limit(self.project, self.held)
        wire.close(self.held)
        self.held = []
        if self.door:
            give_up_door(self.door)

    def reap(self) -> None:
        """Take note of the end, as a parent must."""
        if self.pid:
            os.waitpid(self.pid, 0)


def give_up_limit(project: Project, held: Sequence[int]) -> None:
    """Have no limit any more for what a box has on disk."""
    from sdbox.init import quota

    quota.end(held, project)


def give_up_door(path: str) -> None:
    """Remove the directory of a nestable box's way out, unless another box has it."""
    from sdbox.init import nest

    nest.remove_unused(path)
