"""The box's view of the file system, from the mounts that the plan lists, in their order.

First every source becomes a detached tree of mounts, while the machine's own file system is
still in sight; then all are attached. Destinations are resolved inside the box's root, on
directory descriptors, so that no symlink and no race in there leads out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping

from sdbox.init import syscalls
from sdbox.init.steps import step

_NO_DEVICES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_ATTRIBUTES = {
    "proc": _NO_DEVICES | syscalls.MOUNT_ATTR_NOEXEC,
    "sysfs": _NO_DEVICES | syscalls.MOUNT_ATTR_NOEXEC,
    "tmpfs": _NO_DEVICES,
}


def mount_all(
    root_directory: str | None,
    mounts: Iterable[tuple[str, str, dict[str, object]]],
    private_directories: Mapping[str, str],
    *,
    secure_root: bool = False,
    ephemeral: bool = False,
) -> None:
    """Make the mounts (kind, destination, arguments) and enter the root, in a new namespace.

    `private_directories` are the paths of the box's own directories, by destination. `secure_root`
    refuses a root that others than root could have put there; an `ephemeral` one is not changed by
    what is written to it, which is kept in the private directory for / or in memory.
    """
    with step("mounts"):
        syscalls.make_mounts_slave()
    trees = [
        (destination, _open(kind, destination, arguments, private_directories))
        for kind, destination, arguments in mounts
    ]
    root = _open_root(
        root_directory,
        secure=secure_root,
        layer=private_directories.get("/") if ephemeral else "",
    )
    for destination, tree in trees:
        if tree is not None:
            with step("mount"):
                _attach(root, tree, destination)
    if root_directory is not None:
        with step("RootDirectory"):
            os.fchdir(root)
            syscalls.pivot_root()
    os.close(root)


def _open(
    kind: str,
    destination: str,
    arguments: dict[str, object],
    private_directories: Mapping[str, str],
) -> int | None:
    with step(kind):
        if kind == "PrivateTmp":
            return _private_directory(private_directories[destination])
        return _OPENERS[kind](**arguments)


def _bind(*, source: str, read_only: bool, recursive: bool, ignore_missing: bool) -> int | None:
    flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
    try:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, source, flags)
    except FileNotFoundError:
        if ignore_missing:
            return None
        raise
    if read_only:
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=recursive)
    return tree


def _file_system(*, kind: str, options: dict[str, str]) -> int:
    return syscalls.new_mount(kind, _ATTRIBUTES[kind], **options)


def _private_directory(path: str) -> int:
    tree = syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(tree, _NO_DEVICES, recursive=False)
    return tree


_OPENERS: dict[str, Callable[..., int | None]] = {
    "BindPaths": _bind,
    "MountAPIVFS": _file_system,
}


def _open_root(root_directory: str | None, *, secure: bool, layer: str | None) -> int:
    """Return where destinations are looked up: `/`, or a copy of the mounts at RootDirectory=.

    `layer` is where what is written there is kept: empty for there itself, None for memory.
    """
    if root_directory is None:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    with step("RootDirectory", root_directory):
        place = _open_directory(root_directory, secure=secure)
        tree = _tree(place) if layer == "" else _overlay(place, layer)
        # pivot_root takes only what is attached somewhere.
        syscalls.move_mount(tree, place, root_directory)
        os.close(place)
        return tree


def _tree(place: int) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE | syscalls.AT_EMPTY_PATH
    # By the descriptor, not by the path, which may have come to mean something else.
    return syscalls.open_tree(place, "", flags)


def _overlay(place: int, layer: str | None) -> int:
    from sdbox.init import overlay

    with step("RootEphemeral", layer or "tmpfs"):
        return overlay.mount(place, layer)


def _open_directory(path: str, *, secure: bool) -> int:
    if secure:
        from sdbox.init.secure import open_directory

        return open_directory(path)
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _attach(root: int, tree: int, destination: str) -> None:
    try:
        place = syscalls.open_in_root(root, destination)
    except FileNotFoundError:
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        _make_mount_point(root, destination, directory=directory)
        place = syscalls.open_in_root(root, destination)
    syscalls.move_mount(tree, place, destination)
    os.close(place)
    os.close(tree)


def _make_mount_point(root: int, destination: str, *, directory: bool) -> None:
    """Create what is missing of a mount point, as systemd does."""
    parent, name = os.path.split(destination.rstrip("/"))
    try:
        above = syscalls.open_in_root(root, parent)
    except FileNotFoundError:
        _make_mount_point(root, parent, directory=True)
        above = syscalls.open_in_root(root, parent)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=above)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=above))
    except OSError as error:
        error.filename = destination
        raise
    finally:
        os.close(above)
