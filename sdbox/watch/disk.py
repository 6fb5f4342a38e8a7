"""DiskMax= by walking through what a job has on disk, again and again, and by its quota.

All of it is the job's, who may be changing it meanwhile: directories are opened by name below the
top one, through no symbolic link and to no other file system. What is deleted and still open can't
be seen. A walk goes on a slice at a time, so that its event loop has other work done between.

Where there is a quota, the kernel knows what is used, what is deleted as well. A walk finds what
its owner has made another project's, as owners may.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from sdbox.init import quota, syscalls
from sdbox.messages import MEGABYTE, disk_message
from sdbox.watch.limits import LARGEST_SHARE, LONGEST_REST, SHORTEST_REST, Excess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SLICE_SECONDS = 0.02
_BETWEEN_SECONDS = 0.02
# Of one CPU. A walk through a hundred thousand files takes about half a second of it.
_SHARE = 0.05
# st_blocks, whatever the file system's own blocks are: stat(2).
_BLOCK_BYTES = 512
# After how many entries to look at the time, and at the sum.
_STRIDE = 128
# Of what a walk has to remember: it must not take all memory of who walks.
_MOST_NOTED = 1_000_000
# What is larger is noted, so that it counts once, though it may be moved while the walk goes on.
_LARGE_BYTES = MEGABYTE
_LARGE_SHARE = 10_000


# To whoever is not root.
_SHUT = "a directory in it is shut"


class TooMuch(Exception):
    """A tree has more, or is deeper, than can be counted, or has what can't be seen."""


class DiskWatch:
    """DiskMax= of directories, together.

    They are descriptors, which stay the caller's: by their paths others might be found.
    """

    share = _SHARE

    def __init__(self, directories: Sequence[int], limit_bytes: int) -> None:
        self._directories = tuple(directories)
        self._limit = limit_bytes
        self._walk: Iterator[int] | None = None

    def look(self) -> Excess | float:
        """Go on with the walk for a while, or begin another one."""
        end = time.monotonic() + _SLICE_SECONDS
        if self._walk is None:
            large = max(_LARGE_BYTES, self._limit // _LARGE_SHARE)
            self._walk = walk(self._directories, large)
        try:
            for used in self._walk:
                if used > self._limit:
                    return _excess(disk_message(self._limit, used))
                if time.monotonic() > end:
                    return _BETWEEN_SECONDS
        except TooMuch as error:
            return _excess(f"{disk_message(self._limit, None)} It can't be counted: {error}.")
        self._walk = None
        return SHORTEST_REST


class QuotaWatch:
    """DiskMax= of a project (number, device), by what the kernel counts.

    One of the directories that are its files tells where that is. They are as DiskWatch's.
    """

    share = LARGEST_SHARE

    def __init__(
        self, directories: Sequence[int], project: tuple[int, int], limit_bytes: int
    ) -> None:
        number, device = project
        self._number = number
        self._limit = limit_bytes
        there = (fd for fd in directories if os.fstat(fd).st_dev == device)
        self._place = next(map(os.dup, there), None)

    def look(self) -> Excess | float:
        """Ask for it. Where it can't be told, there is the other watch."""
        used = self._used()
        if used is None:
            return LONGEST_REST
        if used > self._limit:
            return _excess(disk_message(self._limit, used))
        return SHORTEST_REST

    def _used(self) -> int | None:
        if self._place is None:
            return None
        try:
            return quota.used(self._place, self._number)[0]
        except OSError:
            # Somebody has switched quotas off.
            return None

    def close(self) -> None:
        """Look no more."""
        if self._place is not None:
            os.close(self._place)
            self._place = None


def _excess(message: str) -> Excess:
    return Excess(reason="disk", message=message, ask=False)


def walk(directories: Sequence[int], large_bytes: int = _LARGE_BYTES) -> Iterator[int]:
    """Yield, now and then and in the end, the bytes on disk that were counted so far.

    Files with several names count once, as do those of at least `large_bytes`. Raises TooMuch.
    """
    tally = _Tally(large_bytes)
    for directory in directories:
        yield from _below(directory, tally)
    yield tally.bytes


class _Tally:
    """What was counted in one walk."""

    def __init__(self, large_bytes: int) -> None:
        self.bytes = 0
        self._large = large_bytes
        self._noted: set[tuple[int, int]] = set()

    def add(self, status: os.stat_result, *, always_note: bool = False) -> bool:
        """Count a file; return whether it is one that had not been counted before."""
        size = status.st_blocks * _BLOCK_BYTES
        if always_note or status.st_nlink > 1 or size >= self._large:
            name = (status.st_dev, status.st_ino)
            if name in self._noted:
                return False
            if len(self._noted) >= _MOST_NOTED:
                raise TooMuch(f"it has more than {_MOST_NOTED} directories and links")
            self._noted.add(name)
        self.bytes += size
        return True


def _below(top: int, tally: _Tally) -> Iterator[int]:
    pending = ["."]
    while pending:
        path = pending.pop()
        fd = _opened(top, path)
        if fd is None:
            continue
        try:
            status = os.fstat(fd)
            if tally.add(status, always_note=True):
                yield from _entries(fd, path, pending, tally)
        finally:
            os.close(fd)
        if len(pending) > _MOST_NOTED:
            raise TooMuch(f"it has more than {_MOST_NOTED} directories")


# A directory has been moved, removed or replaced since its name was read, or is another file
# system's.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)


def _opened(top: int, path: str) -> int | None:
    try:
        return syscalls.open_below(top, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise TooMuch("it is deeper than a path can be long") from error
        if error.errno in _NOT_THERE:
            return None
        if error.errno == errno.EACCES:
            raise TooMuch(_SHUT) from error
        raise


def _entries(fd: int, path: str, pending: list[str], tally: _Tally) -> Iterator[int]:
    with os.scandir(fd) as entries:
        for number, entry in enumerate(entries):
            if number % _STRIDE == 0:
                yield tally.bytes
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{path}/{entry.name}")
                continue
            try:
                tally.add(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue
            except PermissionError as error:
                raise TooMuch(_SHUT) from error
