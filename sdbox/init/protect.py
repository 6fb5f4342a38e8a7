"""What of the box's file system can't be written to, or not be seen: (mode, path, may be missing).

    hide          an inaccessible file or directory is there instead
    read-only     and all that is mounted below
    read-write    as it was, although it is below what is read-only
    leave         the same, with less weight than what else is said of the path

Every path is looked up in the box's root before anything is changed, and a copy of the mounts there
is taken; then the copies are attached, from the top down.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from sdbox.init import syscalls
from sdbox.init.steps import step

_WEIGHTS = {"leave": 0, "read-write": 1, "read-only": 2, "hide": 3}
_STEPS = {"hide": "InaccessiblePaths", "read-only": "ReadOnlyPaths"}
_HIDDEN = (
    syscalls.MOUNT_ATTR_RDONLY
    | syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOEXEC
)


class _Nothing:
    """A file and a directory that nobody may read, to be put over others."""

    def __init__(self, root: int) -> None:
        self.mount = syscalls.new_mount("tmpfs", 0, mode="0755", size="4096", nr_inodes="8")
        os.mkdir("directory", 0, dir_fd=self.mount)
        os.close(os.open("file", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0, dir_fd=self.mount))
        syscalls.mount_setattr(self.mount, _HIDDEN, recursive=False)
        # Only of what is attached somewhere are there copies.
        syscalls.move_mount(self.mount, root, "/")

    def copy(self, *, directory: bool) -> int:
        name = "directory" if directory else "file"
        return syscalls.open_tree(self.mount, name, syscalls.OPEN_TREE_CLONE)

    def close(self) -> None:
        syscalls.detach(self.mount)
        os.close(self.mount)


def protect(root: int, entries: Iterable[tuple[str, str, bool]]) -> None:
    """Carry out all entries, in a mount namespace of the box's own, below the directory `root`."""
    found = _looked_up(root, entries)
    # Not before: it is on the root meanwhile, where `..` and so many a link would lead into it.
    nothing = _Nothing(root) if any(mode == "hide" for mode, _ in found.values()) else None
    top = os.readlink(_path(root))
    trees = {
        path: _copy(mode, place, nothing)
        for path, (mode, place) in sorted(found.items())
        if path != top
    }
    if nothing is not None:
        nothing.close()
    if top in found:
        with step("ProtectSystem", "/"):
            _change(root, found[top][0])
    for path, tree in trees.items():
        with step(_STEPS.get(found[path][0], "ReadWritePaths"), path):
            _attach(root, tree, path.removeprefix(top.rstrip("/")), found[path][1])
    for _, place in found.values():
        os.close(place)


def _looked_up(root: int, entries: Iterable[tuple[str, str, bool]]) -> dict[str, tuple[str, int]]:
    """What is at the paths, by where that really is: the weightiest mode, and a descriptor."""
    found: dict[str, tuple[str, int]] = {}
    for mode, path, may_be_missing in entries:
        place = _open(root, mode, path, may_be_missing=may_be_missing)
        if place < 0:
            continue
        real = os.readlink(_path(place))
        if real in found and _WEIGHTS[found[real][0]] >= _WEIGHTS[mode]:
            os.close(place)
            continue
        if real in found:
            os.close(found[real][1])
        found[real] = mode, place
    return found


def _open(root: int, mode: str, path: str, *, may_be_missing: bool) -> int:
    with step(_STEPS.get(mode, "ReadWritePaths"), path):
        try:
            return syscalls.open_in_root(root, path)
        except FileNotFoundError:
            if may_be_missing:
                return -1
            raise


def _copy(mode: str, place: int, nothing: _Nothing | None) -> int:
    with step(_STEPS.get(mode, "ReadWritePaths"), os.readlink(_path(place))):
        if mode == "hide" and nothing is not None:
            return nothing.copy(directory=stat.S_ISDIR(os.fstat(place).st_mode))
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE | syscalls.AT_EMPTY_PATH
        tree = syscalls.open_tree(place, "", flags)
        _change(tree, mode)
        return tree


def _change(mount: int, mode: str) -> None:
    # What has been read-only before stays so: nothing is ever taken away from a mount.
    if mode == "read-only":
        syscalls.mount_setattr(mount, syscalls.MOUNT_ATTR_RDONLY, recursive=True)


def _attach(root: int, tree: int, path: str, before: int) -> None:
    # Looked up again, since a copy may have come above it.
    place = syscalls.open_in_root(root, path)
    if not os.path.samestat(os.fstat(place), os.fstat(before)):
        # Somebody has put something else there in between.
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    syscalls.move_mount(tree, place, path)
    os.close(place)
    os.close(tree)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"
