"""DiskMax= by a project quota, where the file system keeps those: a project of each job's own.

Its number is held by a lock on a byte of one file, on a descriptor that the job's helper and init
have, not its payload. So it is free again when they are gone, however they went. But files may be
left that count for it, as in a scratch directory: a number is taken only where there are none.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox.init import quota
from sdbox.kernel import locks
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DIRECTORY = "/run/sdbox/projects"
_FILE = "holders"
# Where administrators keep theirs: projects(5), projid(5). In which field the number is.
_OTHERS = {"/etc/projects": 0, "/etc/projid": 1}
# Those that have project quotas which are asked for in the same way.
_KINDS = ("ext4", "xfs")


@record
class Claim:
    """A project on one file system, for as long as anybody has `lock` open.

    `place` is a descriptor of something there.
    """

    number: int
    device: int
    lock: int
    place: int

    @property
    def project(self) -> tuple[int, int]:
        """The project's number, and the device that its file system is on."""
        return self.number, self.device

    @property
    def held(self) -> tuple[int, int]:
        """What the box's end is to let go of: see sdbox.init.helper."""
        return self.lock, self.place

    def close(self) -> None:
        """Let go of it here."""
        os.close(self.lock)
        os.close(self.place)


def claim(places: Sequence[str], *, directory: str = DIRECTORY) -> Claim | None:
    """Take a project for directories, or return None where no quota can be had for all together.

    That is unless they are on one file system that keeps quotas, and nobody else's project.
    """
    with contextlib.ExitStack() as opened:
        try:
            fds = [_opened(opened, path) for path in places]
            if len({os.fstat(fd).st_dev for fd in fds}) != 1 or not quota.is_enforced(fds[0]):
                return None
            lock = _file(opened, directory)
            if not all(_is_free(lock, quota.project_of(fd)) for fd in fds):
                return None
            number = _taken(lock, fds[0])
        except OSError:
            # It is missing, or this root may not. What then becomes of the job, its launch tells.
            return None
        if number is None:
            return None
        device = os.fstat(fds[0]).st_dev
        return Claim(number=number, device=device, lock=os.dup(lock), place=os.dup(fds[0]))


def _opened(opened: contextlib.ExitStack, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return fd


def _file(opened: contextlib.ExitStack, directory: str) -> int:
    for path in (os.path.dirname(directory), directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(f"{directory}/{_FILE}", flags, 0o600)
    opened.callback(os.close, fd)
    return fd


def _is_free(lock: int, number: int) -> bool:
    """Whether a directory's project is none, or that of a job that is over."""
    return not number or (quota.is_ours(number) and not locks.is_taken(lock, number))


def _taken(lock: int, fs: int) -> int | None:
    """Take a number that nobody has, and which has no files."""
    others, start = set(_others()), _start()
    for place in range(quota.COUNT):
        number = quota.FIRST + (start + place) % quota.COUNT
        if number in others or not _take(lock, number):
            continue
        # Nobody may have been left to do so. And it tells whether this root may set limits.
        quota.limit(fs, number, 0)
        if quota.used(fs, number) == (0, 0):
            return number
        locks.leave(lock, number)
    return None


def _start() -> int:
    """Where to begin to look: who does not know a project can't have his files count for it."""
    return int.from_bytes(os.urandom(4)) % quota.COUNT


def _take(lock: int, number: int) -> bool:
    try:
        locks.take(lock, number)
    except BlockingIOError:
        return False
    return True


def _others() -> Iterator[int]:
    for path, field in _OTHERS.items():
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as lines:
            for line in lines:
                fields = line.split(b":")
                if len(fields) > field and fields[field].strip().isdigit():
                    yield int(fields[field])


def file_systems() -> Iterator[str]:
    """The mount points of the file systems that keep project quotas."""
    found = set()
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            before, _, after = line.partition(b" - ")
            _, _, device, _, place, *_ = before.split()
            if after.split()[0].decode() not in _KINDS or device in found:
                continue
            path = os.fsdecode(place.decode("unicode_escape").encode("latin-1"))
            if _keeps_quotas(path):
                found.add(device)
                yield path


def _keeps_quotas(path: str) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return quota.is_enforced(fd)
    finally:
        os.close(fd)
