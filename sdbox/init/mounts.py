"""The box's view of the file system, from the mounts that the plan lists, in their order.

First every source becomes a detached tree of mounts, while the machine's own file system is
still in sight; then all are attached.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping

from sdbox.init import syscalls
from sdbox.init.attaching import attach_all
from sdbox.init.steps import step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Mount = tuple[str, str, dict[str, Any]]

_NO_DEVICES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_ATTRIBUTES = {
    "devpts": syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC,
    "proc": _NO_DEVICES | syscalls.MOUNT_ATTR_NOEXEC,
    "sysfs": _NO_DEVICES | syscalls.MOUNT_ATTR_NOEXEC,
    "tmpfs": _NO_DEVICES,
}


def mount_all(
    root_directory: str | None,
    mounts: Iterable[Mount],
    private_directories: Mapping[str, int],
    *,
    scratch: int = -1,
    others: Iterable[tuple[str, int]] = (),
    secure_root: bool = False,
    verified_root: tuple[int, int] | None = None,
    ephemeral: bool = False,
    protections: Iterable[tuple[str, str, bool]] = (),
) -> None:
    """Make the mounts (kind, destination, arguments) and enter the root, in a new namespace.

    `private_directories` are descriptors of the box's own directories, by destination; `scratch` is
    one of its scratch directory; `others` are detached mounts, which come last.
    `secure_root` refuses a root that others than root could have put there, or, in a user
    namespace, which has no word for root, one that is not the `verified_root` (device, inode). An
    `ephemeral` one is not changed by what is written to it, which is kept in the private directory
    for / or in memory. `protections` are carried out when all is mounted.
    """
    if protections:
        # Now, while it is to be seen.
        from sdbox.init.protect import protect
    with step("mounts"):
        syscalls.make_mounts_slave()
    trees = _open_all(mounts, private_directories, scratch)
    root = _open_root(
        root_directory,
        secure=secure_root,
        verified=verified_root,
        ephemeral=ephemeral,
        layer=private_directories.get("/"),
    )
    trees += [(("Nestable", destination, {}), tree) for destination, tree in others]
    attach_all(root, trees)
    if protections:
        protect(root, protections)
    if root_directory is not None:
        with step("RootDirectory"):
            os.fchdir(root)
            syscalls.pivot_root()
    os.close(root)


def _open_all(
    mounts: Iterable[Mount], private_directories: Mapping[str, int], scratch: int
) -> list[tuple[Mount, int]]:
    """Open the source of each mount, but for those that may be missing, and are."""
    # Mounts of one file system, by its size.
    shared: dict[str, list[int]] = {}
    openers = _OPENERS | {
        "MountUnderScratch": lambda **arguments: _below_scratch(scratch, **arguments),
        "PrivateTmpSize": lambda **arguments: _shared(shared, **arguments),
        "ScratchDirectory": lambda **_: _scratch(scratch),
    }
    trees = []
    for mount in mounts:
        kind, destination, arguments = mount
        if kind == "PrivateNetwork":
            trees += _sysfs()
            continue
        if kind == "PrivateTmp":
            arguments = {"directory": private_directories[destination]}
        with step(kind):
            tree = openers[kind](**arguments)
        if tree is not None:
            trees.append((mount, tree))
    return trees


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


def _private_directory(*, directory: int) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH
    tree = syscalls.open_tree(directory, "", flags)
    syscalls.mount_setattr(tree, _NO_DEVICES, recursive=False)
    return tree


def _shared(shared: dict[str, list[int]], *, size: str) -> int:
    from sdbox.init import temporary

    if size not in shared:
        shared[size] = list(temporary.shared(size, 2))
    return shared[size].pop(0)


def _temporary(*, options: dict[str, str], attributes: int, read_only: bool) -> int:
    # Read-only it is made when all that comes below it is there: see sdbox.init.attaching.
    return syscalls.new_mount("tmpfs", attributes, **options)


def _scratch(scratch: int) -> int:
    from sdbox.init.scratch import tree

    return tree(scratch)


def _below_scratch(scratch: int, **arguments: Any) -> int:
    from sdbox.init.scratch import below

    return below(scratch, **arguments)


def _sysfs() -> list[tuple[Mount, int]]:
    from sdbox.init import sysfs

    with step("PrivateNetwork"):
        return sysfs.trees()


def _image(**arguments: Any) -> int | None:
    from sdbox.init.images import mount

    return mount(**arguments)


def _cover(**arguments: Any) -> int:
    from sdbox.init import covers

    return covers.mount(**arguments)


_OPENERS: dict[str, Callable[..., int | None]] = {
    "BindPaths": _bind,
    "Cover": _cover,
    "MountAPIVFS": _file_system,
    "MountImages": _image,
    "PrivateTmp": _private_directory,
    "TemporaryFileSystem": _temporary,
}


def _open_root(
    root_directory: str | None,
    *,
    secure: bool,
    verified: tuple[int, int] | None,
    ephemeral: bool,
    layer: int | None,
) -> int:
    """Return where destinations are looked up: `/`, or a copy of the mounts at RootDirectory=.

    `layer` is a descriptor of where what is written to an `ephemeral` one is kept, None for memory.
    """
    if root_directory is None:
        return os.open("/", os.O_PATH | os.O_CLOEXEC)
    with step("RootDirectory", root_directory):
        place = _open_directory(root_directory, secure=secure, verified=verified)
        tree = _overlay(place, layer) if ephemeral else _tree(place)
        # pivot_root takes only what is attached somewhere.
        syscalls.move_mount(tree, place, root_directory)
        os.close(place)
        return tree


def _tree(place: int) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE | syscalls.AT_EMPTY_PATH
    # By the descriptor, not by the path, which may have come to mean something else.
    return syscalls.open_tree(place, "", flags)


def _overlay(place: int, layer: int | None) -> int:
    from sdbox.init import overlay

    name = "tmpfs" if layer is None else os.readlink(f"/proc/self/fd/{layer}")
    with step("RootEphemeral", name):
        return overlay.mount(place, layer)


def _open_directory(path: str, *, secure: bool, verified: tuple[int, int] | None) -> int:
    if secure and verified is None:
        from sdbox.init.secure import open_directory

        return open_directory(path)
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    status = os.fstat(fd)
    if verified is not None and (status.st_dev, status.st_ino) != verified:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    return fd
