"""Private directories: `…/sdbox-private-X/tmp`, made for a box and removed with it.

What they are in may be another user's, who can put anything in the place of what was made. So each
is known by what it is, all is done on descriptors, and what else has its name is left alone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from sdbox.init import syscalls
from sdbox.init.descriptors import close_all_but
from sdbox.init.steps import StepError, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdbox.init.quota import Project

    # Its path, with /tmp at the end, and device and inode of what that is in, sdbox-private-X.
    Private = tuple[str, int, int]
    # Descriptors of what sdbox-private-X is in, and of it itself, and its name.
    Found = tuple[int, int, str]

_NAME = "tmp"
_RM = "/bin/rm"


def make(directive: str, parent: str, job: str, project: Project | None) -> Private:
    """Make a directory that only this user can enter, and in it one like /tmp."""
    name = f"sdbox-private-{job}-{os.urandom(8).hex()}"
    path = os.path.join(parent, name)
    with step(directive, parent):
        os.mkdir(path, 0o700)
        own = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(own)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise _stale(path)
            made = os.path.join(path, _NAME), status.st_dev, status.st_ino
            _fill(own, made, project)
        finally:
            os.close(own)
    return made


def _stale(path: str) -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)


def _fill(own: int, made: Private, project: Project | None) -> None:
    """Make what is in a new directory, as a project's if there is one, or let there be none."""
    try:
        if project is not None:
            from sdbox.init import quota

            quota.give_new(f"/proc/self/fd/{own}/.", project)
        os.mkdir(_NAME, dir_fd=own)
        os.chmod(_NAME, 0o1777, dir_fd=own)  # noqa: S103 - as /tmp is
    except (OSError, StepError):
        removed(made)
        raise


def opened(private: Private) -> int:
    """Return a descriptor (O_PATH) of the directory that is like /tmp."""
    above, own, _ = _found(private)
    try:
        return syscalls.open_without_links(own, _NAME, os.O_PATH | os.O_DIRECTORY)
    finally:
        _close(above, own)


def _found(private: Private) -> Found:
    """Find what was made. Raises OSError, with ESTALE where another directory has its name."""
    path, device, inode = private
    place = os.path.dirname(path)
    parent, name = os.path.split(place)
    above = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        own = syscalls.open_without_links(above, name, os.O_RDONLY | os.O_DIRECTORY)
    except BaseException:
        os.close(above)
        raise
    status = os.fstat(own)
    if (status.st_dev, status.st_ino) != (device, inode):
        _close(above, own)
        raise _stale(place)
    return above, own, name


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def removed(private: Private) -> bool:
    """Remove one with nothing in it; return whether there is none any more."""
    try:
        above, own, name = _found(private)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        # Each by itself: who was killed in the middle of this has removed one of them.
        _remove_empty(_NAME, own)
        _remove_empty(name, above)
    except OSError:
        return False
    finally:
        _close(above, own)
    return True


def _remove_empty(name: str, above: int) -> None:
    try:
        os.rmdir(name, dir_fd=above)
    except FileNotFoundError:
        pass


def left(privates: Iterable[Private]) -> str:
    """Return the paths of those that are still there, when all in them has been removed."""
    return " ".join(one[0] for one in privates if not removed(one))


def remove(privates: Iterable[Private]) -> str:
    """Remove private directories with all that is in them; return the paths of what is left."""
    full = [one for one in privates if not removed(one)]
    if os.geteuid() != 0:
        _empty_all(full)
    elif remover := _start_rm(full):
        os.waitpid(remover, 0)
    return left(full)


def start_removing(privates: Iterable[Private]) -> int:
    """Begin to remove what is in them; return the PID of who does it, or 0 if that is nobody.

    When that has ended, left() does the rest. The caller must have one thread.
    """
    full = [one for one in privates if not removed(one)]
    if not full or os.geteuid() == 0:
        return _start_rm(full)
    pid = os.fork()
    if pid == 0:
        try:
            close_all_but({0, 1, 2})
            _empty_all(full)
        finally:
            os._exit(0)
    return pid


def _start_rm(privates: Iterable[Private]) -> int:
    """Start an rm, which copes with trees of any depth, and the tree is of the payload's making."""
    found = _all_found(privates)
    if not found:
        return 0
    owns = [own for _, own, _ in found]
    places = (f"/proc/self/fd/{own}/{_NAME}" for own in owns)
    arguments = ["rm", "-rf", "--one-file-system", "--", *places]
    # Onto itself: it is open in there, too.
    actions = [(os.POSIX_SPAWN_DUP2, own, own) for own in owns]
    try:
        return os.posix_spawn(_RM, arguments, {"PATH": "/usr/bin:/bin"}, file_actions=actions)
    finally:
        for above, own, _ in found:
            _close(above, own)


def _all_found(privates: Iterable[Private]) -> list[Found]:
    found = []
    for one in privates:
        try:
            found.append(_found(one))
        except OSError:
            # left() tells of it.
            pass
    return found


def _empty_all(privates: Iterable[Private]) -> None:
    """Do what rm can't for who is not root: a directory's owner may have shut it."""
    remove_kept(_all_found(privates))


def kept(privates: Iterable[Private]) -> list[Found]:
    """Return descriptors of private directories and of what they are in."""
    return [_found(one) for one in privates]


def remove_kept(found: Iterable[Found]) -> None:
    """Remove what kept() has returned, from wherever this process is by now.

    For one that has no right to go back, and finds no rm where it is.
    """
    for above, own, name in found:
        try:
            _empty(own)
            os.rmdir(name, dir_fd=above)
        except OSError:
            # Somebody else is at it.
            pass
        finally:
            _close(above, own)


def _opened(name: str, above: int) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=above)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=above)
        return os.open(name, flags, dir_fd=above)


def _empty(top: int) -> None:
    """Remove all that is in a directory, be it as deep as it may: directories are moved up."""
    # No name that a job has given to something there.
    new, number = f".{os.urandom(8).hex()}", 0
    while directories := _without_files(top):
        for name in directories:
            fd = _opened(name, top)
            os.fchmod(fd, 0o700)
            for below in _without_files(fd):
                number += 1
                os.chmod(below, 0o700, dir_fd=fd)
                os.rename(below, f"{new}.{number}", src_dir_fd=fd, dst_dir_fd=top)
            os.close(fd)
            os.rmdir(name, dir_fd=top)


def _without_files(fd: int) -> list[str]:
    """Remove all but the directories in a directory, and return their names."""
    directories = []
    for name in os.listdir(fd):
        try:
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            directories.append(name)
    return directories
