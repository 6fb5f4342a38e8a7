"""A directory or file that nobody but root can have put where it is.

It is looked up from `/` on, name by name and on descriptors, and each directory on the way must be
root's and writable by nobody else. So what was checked is what is used.
"""

from __future__ import annotations

import errno
import os
import stat

from sdbox.init import syscalls
from sdbox.init.steps import StepError

STEP = "NamedRoot"

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def open_directory(path: str, step: str = STEP) -> int:
    """Return a descriptor (O_PATH) of an absolute path.

    Raises StepError, with the path up to what is wrong: ELOOP for a symbolic link, EPERM for what
    is not root's, EACCES for what others may write to, or what open(2) says.
    """
    place = "/"
    fd = _open("/", place, syscalls.AT_FDCWD, os.O_PATH | os.O_DIRECTORY, step)
    try:
        for name in filter(None, path.split("/")):
            _check(fd, place, step)
            place = os.path.join(place, name)
            above, fd = fd, _open(name, place, fd, os.O_PATH | os.O_DIRECTORY, step)
            os.close(above)
        _check(fd, place, step)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_file(path: str, step: str) -> int:
    """Return a descriptor, to read from, of a file. Raises StepError, also with EISDIR."""
    directory, name = os.path.split(path)
    above = open_directory(directory, step)
    try:
        # Whatever it is, to open it does not block.
        fd = _open(name, path, above, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, step)
    finally:
        os.close(above)
    try:
        _check(fd, path, step)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise StepError(step, path, errno.EISDIR)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(name: str, place: str, above: int, flags: int, step: str) -> int:
    try:
        return syscalls.open_without_links(above, name, flags)
    except OSError as error:
        raise StepError(step, place, error.errno or 0) from error


def _check(fd: int, place: str, step: str) -> None:
    status = os.fstat(fd)
    if status.st_uid != 0:
        raise StepError(step, place, errno.EPERM)
    # An access control list that lets others write shows as the group's bit (acl(5)).
    if status.st_mode & _OTHERS_WRITE:
        raise StepError(step, place, errno.EACCES)
