"""Project quotas of ext4 and XFS: what the files of a project take on disk, and the most they may.

A directory that is a project's passes that on to all that is made in it. Numbers and structures
are those of linux/dqblk_xfs.h and linux/fs.h, which the kernel takes for ext4 as well.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from sdbox.init import syscalls
from sdbox.init.steps import StepError, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    # Its number, the device where its files are, and how many bytes they may have together.
    Project = tuple[int, int, int]

# Of numbers that are sdbox's alone. An administrator counts from 1, Kubernetes from 2**20, and
# systemd 258 from 2**31.
FIRST = 0x5DB00000
COUNT = 1 << 16

# A job that is over its limit is to be seen to be that, before the kernel holds it there.
SLACK_BYTES = 1 << 20

# Commands about projects: XQM_CMD() and PRJQUOTA.
_GET, _SET, _STATE = ((ord("X") << 8 | number) << 8 | 2 for number in (3, 4, 8))
# struct fs_quota_statv, of which the version is told and the flags are of use.
_STATE_RECORD = struct.Struct("=bxH156x")
_ENFORCED = 1 << 5
# struct fs_disk_quota: version, flags, which fields are set; hard and soft limit of blocks; blocks
# and inodes in use.
_QUOTA = struct.Struct("=bbHI QQ16xQQ 56x")
_OF_A_PROJECT = 2
_HARD_LIMIT = 1 << 3
_BLOCK_BYTES = 512

# struct fsxattr: flags, what stays as it is, the project, and the rest.
_ATTRIBUTES = struct.Struct("=I8sI12s")
_INHERITED = 0x200
# _IOR() and _IOW(), whose bits are others on POWER.
_READ, _WRITE = (0x4, 0x8) if os.uname().machine.startswith("ppc") else (0x8, 0x4)
_GET_ATTRIBUTES = _READ << 28 | _ATTRIBUTES.size << 16 | ord("X") << 8 | 31
_SET_ATTRIBUTES = _WRITE << 28 | _ATTRIBUTES.size << 16 | ord("X") << 8 | 32

STEP = "DiskMax"


def is_ours(project: int) -> bool:
    """Whether it is one of sdbox's numbers."""
    return FIRST <= project < FIRST + COUNT


def is_enforced(fd: int) -> bool:
    """Whether the kernel keeps limits of projects on the file system of a descriptor."""
    try:
        state = syscalls.quotactl(fd, _STATE, 0, _STATE_RECORD.pack(1, 0))
    except OSError:
        return False
    return bool(_STATE_RECORD.unpack(state)[1] & _ENFORCED)


def used(fd: int, project: int) -> tuple[int, int]:
    """Return the bytes and the files that a project has on the file system of a descriptor."""
    _, bytes_used, files = _figures(fd, project)
    return bytes_used, files


def is_limited(fd: int, project: int) -> bool:
    """Whether there is a limit for it."""
    return _figures(fd, project)[0] > 0


def _figures(fd: int, project: int) -> tuple[int, int, int]:
    try:
        record = syscalls.quotactl(fd, _GET, project, bytes(_QUOTA.size))
    except FileNotFoundError:
        # What XFS says of a project that it has never had.
        return 0, 0, 0
    _, _, _, _, hard, _, blocks, files = _QUOTA.unpack(record)
    return hard * _BLOCK_BYTES, blocks * _BLOCK_BYTES, files


def limit(fd: int, project: int, most_bytes: int) -> None:
    """Have the kernel let a project have so much on disk at most; 0 is for no limit."""
    blocks = -(-most_bytes // _BLOCK_BYTES)
    wanted = _QUOTA.pack(1, _OF_A_PROJECT, _HARD_LIMIT, project, blocks, 0, 0, 0)
    syscalls.quotactl(fd, _SET, project, wanted)


def begin(fds: Iterable[int], project: Project) -> None:
    """Limit a project, by those of the descriptors that are of its disk. Raises StepError."""
    number, device, limit_bytes = project
    with step(STEP):
        for fd in _there(fds, device):
            limit(fd, number, limit_bytes + SLACK_BYTES)


def end(fds: Iterable[int], project: Project) -> None:
    """Have no limit for it any more."""
    number, device, _ = project
    for fd in _there(fds, device):
        try:
            limit(fd, number, 0)
        except OSError:
            # As of a file system that has gone read-only. Whoever takes the number next does it.
            pass


def _there(fds: Iterable[int], device: int) -> list[int]:
    return [fd for fd in fds if os.fstat(fd).st_dev == device]


def project_of(fd: int) -> int:
    """Return whose project a file is, 0 for no one's."""
    return int(_attributes(fd)[2])


def _attributes(fd: int) -> tuple[Any, ...]:
    return _ATTRIBUTES.unpack(fcntl.ioctl(fd, _GET_ATTRIBUTES, bytes(_ATTRIBUTES.size)))


def give(fd: int, project: int) -> bool:
    """Make a file a project's, and what will be made in it, if it is a directory.

    Return False for what is somebody else's project, and stays that.
    """
    flags, some, before, more = _attributes(fd)
    if before and not is_ours(before):
        return False
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        flags |= _INHERITED
    fcntl.ioctl(fd, _SET_ATTRIBUTES, _ATTRIBUTES.pack(flags, some, project, more))
    return True


def give_new(path: str, project: Project) -> None:
    """Make a new directory a project's. Raises StepError."""
    with step(STEP, path):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _give_first(fd, path, project)
        finally:
            os.close(fd)


def _give_first(fd: int, path: str, project: Project) -> None:
    """Make it all a project's that is about to be in a directory, or refuse what it is by now."""
    if os.fstat(fd).st_dev != project[1] or not give(fd, project[0]):
        raise StepError(STEP, path, errno.EXDEV)


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
# Whatever it is, to open it does not block.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


# What has been moved, removed or replaced since its name was read, or is another file system's.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def give_tree(top: int, path: str, owners: set[int], project: Project) -> None:
    """Make a directory a project's, with what is below. Raises StepError.

    A user may be changing that: it is looked up through no link and in no other file system. Of
    files only those of `owners` are given, what others have is not theirs to count. `path` is what
    the directory is called.
    """
    pending = ["."]
    while pending:
        place = pending.pop()
        with step(STEP, path + place[1:]):
            fd = _opened(top, place)
            if fd is None:
                continue
            try:
                # Before it is read, so that what is new in it is the project's already.
                if place == ".":
                    _give_first(fd, path, project)
                else:
                    give(fd, project[0])
                pending += [f"{place}/{name}" for name in _given(fd, project[0], owners)]
            finally:
                os.close(fd)


def _opened(top: int, place: str) -> int | None:
    try:
        return syscalls.open_below(top, place, _DIRECTORY)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def _given(above: int, project: int, owners: set[int]) -> list[str]:
    """Make the files in a directory a project's, and return the names of its directories."""
    directories = []
    with os.scandir(above) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                _give_file(above, entry.name, project, owners)
    return directories


def _give_file(above: int, name: str, project: int, owners: set[int]) -> None:
    try:
        fd = syscalls.open_below(above, name, _FILE)
    except OSError:
        # It is gone, or another thing. What is not the project's is counted by the walk.
        return
    try:
        status = os.fstat(fd)
        # Anything of root's may be linked there, where the kernel lets users do so.
        if status.st_uid in owners and (status.st_uid or status.st_nlink == 1):
            give(fd, project)
    except PermissionError:
        # It is immutable: that keeps it from growing, too.
        pass
    finally:
        os.close(fd)
