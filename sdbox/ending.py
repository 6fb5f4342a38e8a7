"""Waits for the end of a job that another process supervises, and finds out how it ended.

The job's supervisor leaves the account on the cgroup (`sdbox.memo`), which can still be read on
an open directory when the cgroup is removed. So neither bus nor journal is needed.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import TimedOut
from sdbox.inotify import IN_ATTRIB, IN_DELETE, IN_ONLYDIR, Inotify
from sdbox.memo import recall, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sdbox.cgroup import Cgroup
    from sdbox.memo import Process

# How long a supervisor may take from the end of the unit to its account, where it lives on
# without giving one: a program whose own fault ended the job.
_ACCOUNT_SECONDS = 10.0


async def report_of(cgroup: Cgroup) -> dict[str, Any] | None:
    """Wait until a job's cgroup is gone; return its report, None where nobody has left one."""
    process = _supervisor(cgroup)
    with Inotify() as inotify, _end_of(process) as ended:
        inotify.add(f"/proc/self/fd/{cgroup.fd}", IN_ATTRIB | IN_ONLYDIR)
        with contextlib.suppress(FileNotFoundError):
            inotify.add(os.path.dirname(cgroup.name), IN_DELETE | IN_ONLYDIR)
        while not _gone(cgroup):
            await loop.readable(inotify.fd)
            inotify.drain()
        if process is not None:
            with contextlib.suppress(TimedOut):
                async with loop.within(_ACCOUNT_SECONDS, "the account of a job"):
                    await _account(cgroup, inotify, ended)
        return result_of(cgroup.fd)


async def _account(cgroup: Cgroup, inotify: Inotify, ended: select.epoll) -> None:
    """Wait for the report, or until there is nobody who could give one."""
    with select.epoll() as either:
        either.register(inotify.fd, select.EPOLLIN)
        either.register(ended.fileno(), select.EPOLLIN)
        # In this order, as it may give it and end.
        while not ended.poll(0) and result_of(cgroup.fd) is None:
            await loop.readable(either.fileno())
            inotify.drain()


def _gone(cgroup: Cgroup) -> bool:
    """Whether the directory is removed, be there another one of its name by now or not."""
    with contextlib.suppress(FileNotFoundError):
        return not os.path.samestat(os.stat(cgroup.name), os.fstat(cgroup.fd))
    return True


def _supervisor(cgroup: Cgroup) -> Process | None:
    """Return the process that supervises a job, unless it is known to have ended."""
    memo = recall(cgroup.fd)
    process = None if memo is None else memo.supervisor
    return None if process is None or process.alive() is False else process


@contextlib.contextmanager
def _end_of(process: Process | None) -> Iterator[select.epoll]:
    """What can be read when a process has ended; never, where it can't be seen from here."""
    with select.epoll() as ended:
        pidfd = -1
        if process is not None and process.alive():
            with contextlib.suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process.pid)
                ended.register(pidfd, select.EPOLLIN)
        try:
            yield ended
        finally:
            if pidfd >= 0:
                os.close(pidfd)
