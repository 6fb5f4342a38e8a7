"""Where it is kept which jobs have which CPUs: root has one register, each other user his own.

Nobody else can open it: who could, if only for reading, could lock it, and take all CPUs from its
owner's jobs. What users can have of root's register is what the kernel tells of its locks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from sdbox.errors import Unenforceable
from sdbox.kernel import locks
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterator

_FILE = "holders"
# systemd-tmpfiles, which cleans up what is old in /tmp, leaves a file with the sticky bit alone.
_FILE_MODE = 0o1600


@record
class Register:
    """A directory that is its owner's alone, with the file that the locks are on."""

    directory: str
    owner: int

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"{self.directory}/{_FILE}"

    @property
    def is_own(self) -> bool:
        """Whether it is this user's, who can open it then."""
        return self.owner == os.geteuid()

    @property
    def _mode(self) -> int:
        # Of root's file the others may look up the numbers.
        return 0o700 if self.owner else 0o711

    def open(self, flags: int) -> int:
        """Open this user's file; with O_CREAT, make it where there is none.

        Raises FileNotFoundError, and Unenforceable where it is not his alone.
        """
        make = bool(flags & os.O_CREAT)
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with self._entered(make=make) as directory:
                return os.open(_FILE, flags, _FILE_MODE, dir_fd=directory)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not make:
                raise
            raise unusable(self.path, error, f"See what {self.directory} is") from None

    def locked(self) -> frozenset[int]:
        """Return where anybody's file is locked. Raises Unenforceable."""
        try:
            with self._entered() as directory:
                status = os.stat(_FILE, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise unusable(self.path, error, "Have root look at it") from None
        try:
            return locks.listed(status)
        except OSError as error:
            raise unusable(locks.LIST, error, "It tells which CPUs root's jobs have") from None

    @contextlib.contextmanager
    def _entered(self, *, make: bool = False) -> Iterator[int]:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, self._mode)
        kind = os.O_RDONLY if make else os.O_PATH
        fd = os.open(self.directory, kind | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not _is_alone(status, self.owner):
                # Anybody can make one in /tmp first.
                raise PermissionError(errno.EPERM, "is in a directory that is not its user's alone")
            if make and stat.S_IMODE(status.st_mode) != self._mode:
                # What others may look up is not for a process's umask to say.
                os.fchmod(fd, self._mode)
            yield fd
        finally:
            os.close(fd)


# In a file system in memory: after a boot nothing is held.
ROOTS = Register(directory="/run/sdbox-cpus", owner=0)


def known() -> tuple[Register, ...]:
    """Return this user's register, and after it those whose CPUs are to be left alone.

    Whatever the environment says, so that jobs count that were started in a session and without.
    It outlives his sessions, as his jobs do: his runtime directory, which goes with the last one,
    would take along what they have locked in it.
    """
    uid = os.geteuid()
    if uid == 0:
        return (ROOTS,)
    place = f"/tmp/sdbox-cpus-{uid}"  # noqa: S108 - see _entered
    return (Register(directory=place, owner=uid), ROOTS)


def _is_alone(status: os.stat_result, owner: int) -> bool:
    """Whether it is a directory that nobody but its owner puts anything into."""
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner and not status.st_mode & 0o022


def unusable(path: str, error: OSError, hint: str) -> Unenforceable:
    """Return the refusal of a launch for what is wrong with a file."""
    return Unenforceable(f"AssignedCPUs: {path}: {error.strerror}", hint=hint)
