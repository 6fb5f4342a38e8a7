"""Attaches a box's mounts at their destinations, which are resolved inside its root.

That is done on directory descriptors, so that no symlink and no race in there leads out of it. What
comes below a directory that the job's user has filled is resolved inside that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from sdbox.init import syscalls
from sdbox.init.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdbox.init.mounts import Mount

# What these bring is the job's user's, who may have links in there.
_USERS = ("MountUnderScratch", "ScratchDirectory")
# These come over what is there, or not at all.
_ONLY_OVER = ("Cover", "PrivateNetwork")


def attach_all(root: int, trees: Sequence[tuple[Mount, int]]) -> None:
    """Attach each mount at its destination, and let go of them."""
    # Where to look up what comes below a path, instead of the root.
    confined = {"/": root}
    sealed = []
    for (kind, destination, arguments), tree in trees:
        with step("mount", destination):
            above = max((place for place in confined if _is_below(destination, place)), key=len)
            below = destination[len(above.rstrip("/")) :] or "."
            _attach(confined[above], tree, below, only_over=kind in _ONLY_OVER)
        # Another mount in the same place has come over it.
        confined.pop(destination, None)
        if kind in _USERS:
            confined[destination] = tree
        if kind == "Cover" or (kind == "TemporaryFileSystem" and arguments["read_only"]):
            sealed.append(tree)
    # When all below is there. It is these mounts, not their paths, where a bind may be by now.
    for tree in sealed:
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
    for _, tree in trees:
        os.close(tree)


def _is_below(path: str, place: str) -> bool:
    return path.startswith(place.rstrip("/") + "/")


def _attach(root: int, tree: int, destination: str, *, only_over: bool = False) -> None:
    try:
        place = syscalls.open_in_root(root, destination)
    except FileNotFoundError:
        if only_over:
            # There is nothing to be covered.
            return
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        _make_mount_point(root, destination, directory=directory)
        place = syscalls.open_in_root(root, destination)
    syscalls.move_mount(tree, place, destination)
    os.close(place)


def _make_mount_point(root: int, destination: str, *, directory: bool) -> None:
    """Create what is missing of a mount point, as systemd does."""
    parent, name = os.path.split(destination.rstrip("/"))
    try:
        above = syscalls.open_in_root(root, parent)
    except FileNotFoundError:
        _make_mount_point(root, parent, directory=True)
        above = syscalls.open_in_root(root, parent)
    # The job's user has to get there, whatever the caller keeps others from.
    umask = os.umask(0o022)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=above)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=above))
    except FileExistsError:
        # Another launch was quicker. What it is shows when it is looked up again.
        pass
    except OSError as error:
        error.filename = destination
        raise
    finally:
        os.umask(umask)
        os.close(above)
