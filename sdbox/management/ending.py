"""Waits for the end of a job that another process supervises, and finds out how it ended.

The job's supervisor leaves the account on the cgroup (`sdbox.management.memo`), which can still be
read on an open directory when the cgroup is removed. So neither bus nor journal is needed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import TimedOut
from sdbox.kernel.inotify import IN_ATTRIB, IN_DELETE, IN_ONLYDIR, OVERFLOW, Inotify
from sdbox.management.memo import recall, result_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator
    from typing import Any

    from sdbox.cgroup import Cgroup
    from sdbox.management.memo import Process

# How long a supervisor may take from the end of the unit to its account, where it lives on
# without giving one: a program whose own fault ended the job.
_ACCOUNT_SECONDS = 10.0


async def report_of(cgroup: Cgroup) -> dict[str, Any] | None:
    """Wait until a job's cgroup is gone; return its report, None where nobody has left one."""
    with _told_of(cgroup) as bell:
        while not _gone(cgroup):
            await bell.rung()
        memo = recall(cgroup.fd)
        if memo is not None and memo.supervisor is not None:
            with contextlib.suppress(TimedOut):
                async with loop.within(_ACCOUNT_SECONDS, "the account of a job"):
                    await _account(cgroup, bell, memo.supervisor)
        return result_of(cgroup.fd)


async def _account(cgroup: Cgroup, bell: Bell, supervisor: Process) -> None:
    """Wait for the report, or until there is nobody who could give one."""
    with _end_of(supervisor, bell) as ended:
        # In this order, as it may give it and end.
        while not ended.done() and result_of(cgroup.fd) is None:
            await bell.rung()


def _gone(cgroup: Cgroup) -> bool:
    """Whether the directory is removed, be there another one of its name by now or not."""
    with contextlib.suppress(FileNotFoundError):
        return not os.path.samestat(os.stat(cgroup.name), os.fstat(cgroup.fd))
    return True


@contextlib.contextmanager
def _end_of(process: Process, bell: Bell) -> Iterator[asyncio.Future[None]]:
    """What is done, and rings, when a process has ended; never, where it can't be seen."""
    running = loop.running()
    ended = running.create_future()
    ended.add_done_callback(lambda _: bell.ring())
    pidfd = -1
    try:
        if process.alive() is not None:
            pidfd = os.pidfd_open(process.pid)
            running.add_reader(pidfd, loop.settle, ended)
        # Asked again: it may have been another process's descriptor.
        if process.alive() is False:
            loop.settle(ended)
    except ProcessLookupError:
        loop.settle(ended)
    try:
        yield ended
    finally:
        if pidfd >= 0:
            running.remove_reader(pidfd)
            os.close(pidfd)


class Bell:
    """Rings for one who waits, or is about to."""

    def __init__(self) -> None:
        self._has_rung = False
        self._heard: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the one who waits, or the next one who does."""
        self._has_rung = True
        if self._heard is not None:
            loop.settle(self._heard)

    async def rung(self) -> None:
        """Wait until it rings, or has since the last time."""
        if not self._has_rung:
            self._heard = loop.running().create_future()
            await self._heard
        self._has_rung = False


class _Doorman:
    """Rings the bells of all who wait in one event loop, from one inotify descriptor.

    A user can have 128 of these, unless told otherwise (fs.inotify.max_user_instances).
    """

    def __init__(self) -> None:
        self._inotify = Inotify()
        self.bells: dict[tuple[int, str], set[Bell]] = {}
        loop.running().add_reader(self._inotify.fd, self._on_events)

    def watch(self, cgroup: Cgroup) -> list[tuple[int, str]]:
        """Watch a cgroup's attributes, and its removal from the one above."""
        above, name = os.path.split(cgroup.name)
        doors = [(self._inotify.add(f"/proc/self/fd/{cgroup.fd}", IN_ATTRIB | IN_ONLYDIR), "")]
        # It may have gone, and the slice with it.
        with contextlib.suppress(FileNotFoundError):
            doors.append((self._inotify.add(above, IN_DELETE | IN_ONLYDIR), name))
        return doors

    def close(self) -> None:
        loop.running().remove_reader(self._inotify.fd)
        self._inotify.close()

    def _on_events(self) -> None:
        for watch, name in self._inotify.events():
            lost = watch == OVERFLOW
            rung = self.bells.values() if lost else [self.bells.get((watch, name), set())]
            for bell in set().union(*rung):
                bell.ring()


_doormen: dict[asyncio.AbstractEventLoop, _Doorman] = {}


@contextlib.contextmanager
def _told_of(cgroup: Cgroup) -> Iterator[Bell]:
    """A bell that rings when a cgroup has a new attribute, or is removed."""
    running, bell = loop.running(), Bell()
    doorman = _doormen.get(running)
    if doorman is None:
        doorman = _doormen[running] = _Doorman()
    doors: list[tuple[int, str]] = []
    try:
        doors = doorman.watch(cgroup)
        for door in doors:
            doorman.bells.setdefault(door, set()).add(bell)
        yield bell
    finally:
        for door in doors:
            doorman.bells[door].discard(bell)
            if not doorman.bells[door]:
                del doorman.bells[door]
        if not doorman.bells:
            doorman.close()
            del _doormen[running]
