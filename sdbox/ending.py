"""Waits for the end of a job that another process supervises, and finds out how it ended.

The job's supervisor leaves the account on the cgroup (`sdbox.memo`), which can still be read on
an open directory when the cgroup is removed. So neither bus nor journal is needed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import TimedOut
from sdbox.inotify import IN_ATTRIB, IN_DELETE, IN_ONLYDIR, Inotify
from sdbox.memo import recall, result_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sdbox.cgroup import Cgroup

# How long a supervisor may take from the end of the unit to its account, where it lives on
# without giving one: a program whose own fault ended the job.
_ACCOUNT_SECONDS = 10.0


async def report_of(cgroup: Cgroup) -> dict[str, Any] | None:
    """Wait until a job's cgroup is gone; return its report, None where nobody has left one."""
    with Inotify() as inotify, _supervisor(cgroup) as supervisor:
        inotify.add(f"/proc/self/fd/{cgroup.fd}", IN_ATTRIB | IN_ONLYDIR)
        with contextlib.suppress(FileNotFoundError):
            inotify.add(os.path.dirname(cgroup.name), IN_DELETE | IN_ONLYDIR)
        while not _gone(cgroup):
            await loop.readable(inotify.fd)
            inotify.drain()
        with contextlib.suppress(TimedOut):
            async with loop.within(_ACCOUNT_SECONDS, "the account of a job"):
                await _account(cgroup, inotify, supervisor)
        return result_of(cgroup.fd)


async def _account(cgroup: Cgroup, inotify: Inotify, supervisor: int | None) -> None:
    """Wait for the report, or until there is nobody who could give one."""
    if supervisor is None:
        return
    ended = loop.running().create_task(loop.readable(supervisor))
    try:
        while result_of(cgroup.fd) is None and not ended.done():
            await _either(inotify.fd, ended)
            inotify.drain()
    finally:
        ended.cancel()


async def _either(fd: int, other: Any) -> None:
    """Wait until a descriptor can be read, or a task is done."""
    ready = loop.running().create_future()
    loop.running().add_reader(fd, loop.settle, ready)
    other.add_done_callback(lambda _: loop.settle(ready))
    try:
        await ready
    finally:
        loop.running().remove_reader(fd)


def _gone(cgroup: Cgroup) -> bool:
    """Whether the directory is removed, be there another one of its name by now or not."""
    with contextlib.suppress(FileNotFoundError):
        return not os.path.samestat(os.stat(cgroup.name), os.fstat(cgroup.fd))
    return True


@contextlib.contextmanager
def _supervisor(cgroup: Cgroup) -> Iterator[int | None]:
    """A descriptor of the process that supervises a job, None where there is none to be seen."""
    memo = recall(cgroup.fd)
    process = None if memo is None else memo.supervisor
    pidfd = None
    if process is not None and process.alive():
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(process.pid)
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)
