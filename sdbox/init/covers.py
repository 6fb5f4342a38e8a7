"""What is put over a directory that a box is not to see: nothing, or a few devices and links."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from sdbox.init import syscalls


def mount(
    *,
    mode: str,
    nodes: Iterable[tuple[str, int, int]] = (),
    links: Iterable[tuple[str, str]] = (),
) -> int:
    """Return a detached mount with nothing in it but these.

    `nodes` are character devices (name, major, minor), `links` symlinks (name, target).
    """
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
    if not nodes:
        attributes |= syscalls.MOUNT_ATTR_NODEV
    mount = syscalls.new_mount("tmpfs", attributes, mode=mode, size="64k", nr_inodes="1k")
    for name, major, minor in nodes:
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=mount)
        # Whatever the umask is.
        os.chmod(f"/proc/self/fd/{mount}/{name}", 0o666)  # noqa: S103 - as in /dev
    for name, target in links:
        os.symlink(target, name, dir_fd=mount)
    return mount
