"""A root directory that is written to without being changed: what is written is in a layer above.

That is a directory of the box's own, which is removed with it, or a tmpfs, which goes with it.
"""

from __future__ import annotations

import os
import stat

from sdbox.init import syscalls

# As systemd bounds what it has in memory for PrivateTmp=disconnected.
_TMPFS = {"mode": "0700", "size": "10%", "nr_inodes": "1m"}
# As fstatvfs(3) has them and as a mount takes them: the numbers are the same.
_RESTRICTIONS = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC


def mount(root: int, directory: int | None) -> int:
    """Return a detached mount of the directory `root`, without mounts below it, writable.

    `directory` is an empty one for what is written; None stands for memory.
    """
    layer = _in_memory(root) if directory is None else os.dup(directory)
    status = os.fstat(root)
    os.mkdir("work", dir_fd=layer)
    os.mkdir("upper", dir_fd=layer)
    # It is what a job sees of its root's owner and mode.
    if os.geteuid() == 0:
        os.chown("upper", status.st_uid, status.st_gid, dir_fd=layer)
    os.chmod(_path(layer, "upper"), stat.S_IMODE(status.st_mode))
    try:
        made = syscalls.new_mount(
            "overlay",
            # Else what its file system forbids would be allowed.
            os.fstatvfs(root).f_flag & _RESTRICTIONS,
            lowerdir=_path(root),
            upperdir=_path(layer, "upper"),
            workdir=_path(layer, "work"),
            # In a user namespace the kernel takes no other.
            **({} if os.geteuid() == 0 else {"userxattr": None}),
        )
        # The kernel has made it, and shut it: who is not root could not count what is there.
        os.chmod(_path(layer, "work/work"), 0o700)
        return made
    finally:
        os.close(layer)


def _in_memory(root: int) -> int:
    tmpfs = syscalls.new_mount("tmpfs", _RESTRICTIONS, **_TMPFS)
    # An overlay takes only what is attached somewhere. There it is covered by the overlay.
    syscalls.move_mount(tmpfs, root, "/")
    return tmpfs


def _path(directory: int, name: str = "") -> str:
    """Return a path that is what a descriptor stands for, whatever has been put in its place."""
    return f"/proc/self/fd/{directory}/{name}".rstrip("/")
