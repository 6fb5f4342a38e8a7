"""A job's scratch directory, and directories in it that the box has elsewhere, as its /tmp.

It belongs to the job's user, who may have put anything there, and may be changing it. So all is
looked up by name on descriptors, no symbolic link is followed, and what is neither the user's nor
root's is refused.
"""

from __future__ import annotations

import errno
import os
import stat

from sdbox.init import secure, syscalls
from sdbox.init.steps import StepError

SECURE_STEP = "SecureScratch"

_NO_DEVICES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_OTHERS_ENTER = stat.S_IXGRP | stat.S_IXOTH


def opened(*, directory: str, uid: int) -> int:
    """Return a descriptor of the scratch directory of a user, -1 for this process's own.

    It is for all that is done there: a path may lead to another one a moment later. One of root's
    is taken only where nobody else can have put it: with what is above it in their hands, users
    might have any directory of root's taken for theirs. Raises StepError: ELOOP for a symbolic
    link, EPERM where it is somebody else's.
    """
    fd = _found("ScratchDirectory", directory, uid)
    if uid > 0 and os.fstat(fd).st_uid == 0:
        os.close(fd)
        fd = secure.open_directory(directory, SECURE_STEP)
    return fd


def tree(scratch: int) -> int:
    """Return a detached mount of a scratch directory."""
    return _tree(scratch, recursive=True)


def below(scratch: int, *, directory: str, place: str, uid: int, gid: int) -> int:
    """Return a detached mount of `place` below a scratch directory, made there if it is missing.

    It is the user's, and like /tmp, unless others could come there: then it is only the user's.
    """
    step = "MountUnderScratch"
    fd = os.dup(scratch)
    shared = not os.fstat(fd).st_mode & _OTHERS_ENTER
    *above, last = place.strip("/").split("/")
    modes = [(name, 0o755) for name in above] + [(last, 0o1777 if shared else 0o700)]
    try:
        for name, mode in modes:
            directory = os.path.join(directory, name)
            parent, fd = fd, _made(step, directory, fd, mode, uid, gid)
            os.close(parent)
        tree = _tree(fd, recursive=False)
    finally:
        os.close(fd)
    syscalls.mount_setattr(tree, _NO_DEVICES, recursive=False)
    return tree


def _found(step: str, directory: str, uid: int) -> int:
    parent, name = os.path.split(directory)
    try:
        above = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StepError(step, parent, error.errno or 0) from error
    try:
        return _entered(step, directory, above, name, uid)
    finally:
        os.close(above)


def _made(step: str, path: str, above: int, mode: int, uid: int, gid: int) -> int:
    name = os.path.basename(path)
    users = uid > 0 and os.fstat(above).st_uid == uid
    try:
        # For nobody else, until it has its owner.
        _make(name, above, (uid, gid) if users else None)
    except FileExistsError:
        return _entered(step, path, above, name, uid)
    except OSError as error:
        raise StepError(step, path, error.errno or 0) from error
    fd = _entered(step, path, above, name, uid)
    # The user may have put another one there, of his own or one that root had left with him.
    if users and os.fstat(fd).st_uid != uid:
        os.close(fd)
        raise StepError(step, path, errno.EPERM)
    if not users:
        os.fchown(fd, uid, gid)
    os.fchmod(fd, mode)
    return fd


def _make(name: str, above: int, user: tuple[int, int] | None) -> None:
    """Make a directory; a user's as that user, so that nothing has to be given away later."""
    if user is None:
        os.mkdir(name, 0o700, dir_fd=above)
        return
    syscalls.make_files_as(*user)
    try:
        os.mkdir(name, 0o700, dir_fd=above)
    finally:
        syscalls.make_files_as(os.geteuid(), os.getegid())


def _entered(step: str, path: str, above: int, name: str, uid: int) -> int:
    try:
        fd = syscalls.open_without_links(above, name, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StepError(step, path, error.errno or 0) from error
    if os.fstat(fd).st_uid not in (0, os.geteuid(), uid):
        os.close(fd)
        raise StepError(step, path, errno.EPERM)
    return fd


def _tree(fd: int, *, recursive: bool) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH
    return syscalls.open_tree(fd, "", flags | (syscalls.AT_RECURSIVE if recursive else 0))
