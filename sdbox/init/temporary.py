"""Directories of a box that are in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sdbox.init import syscalls

_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
# As systemd bounds them for PrivateTmp=disconnected.
_INODES = "1m"


def shared(size: str, count: int) -> Sequence[int]:
    """Return detached mounts of so many directories like /tmp, which are `size` large together."""
    whole = syscalls.new_mount("tmpfs", _ATTRIBUTES, mode="0755", size=size, nr_inodes=_INODES)
    # Up to Linux 6.14 only what is attached can be cloned. Nobody looks up anything through there.
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    syscalls.move_mount(whole, root, "/")
    os.close(root)
    trees = [_directory(whole, str(number)) for number in range(count)]
    syscalls.detach(whole)
    os.close(whole)
    return trees


def _directory(whole: int, name: str) -> int:
    os.mkdir(name, dir_fd=whole)
    os.chmod(name, 0o1777, dir_fd=whole)  # noqa: S103 - as /tmp is
    return syscalls.open_tree(whole, name, syscalls.OPEN_TREE_CLONE)
