"""A directory that nobody but root can have put where it is.

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


def open_directory(path: str) -> int:
    """Return a descriptor (O_PATH) of an absolute path.

    Raises StepError, with the path up to what is wrong: ELOOP for a symbolic link, EPERM for what
    is not root's, EACCES for what others may write to, or what open(2) says.
    """
    place = "/"
    fd = _open("/", place, syscalls.AT_FDCWD)
    try:
        for name in filter(None, path.split("/")):
            _check(fd, place)
            place = os.path.join(place, name)
            above, fd = fd, _open(name, place, fd)
            os.close(above)
        _check(fd, place)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(name: str, place: str, above: int) -> int:
    try:
        return syscalls.open_without_links(above, name, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise StepError(STEP, place, error.errno or 0) from error


def _check(fd: int, place: str) -> None:
    status = os.fstat(fd)
    if status.st_uid != 0:
        raise StepError(STEP, place, errno.EPERM)
    # An access control list that lets others write shows as the group's bit (acl(5)).
    if status.st_mode & _OTHERS_WRITE:
        raise StepError(STEP, place, errno.EACCES)
