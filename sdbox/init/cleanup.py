"""Ending a box without systemd, for the processes that remain when a supervisor is gone.

Where there is a supervisor, it freezes and kills through systemd; this is for the case that there
is none, and works on the unit's cgroup, held open as a directory since the job's start.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable

# The kernel tells of a change in cgroup.events at most every 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV),
# and not at all of what is due when the cgroup is removed before that: such a waiter is never woken
# (tried). So whoever waits for one looks by himself, too.
RECHECK_SECONDS = 0.1


def kill(cgroup: int, deadline: float) -> None:
    """Have the kernel kill all processes of the cgroup and those below it, at once.

    Only root may, where an ordinary user's box is inside of one of root's: then one after the
    other, for as long as there are any.
    """
    try:
        fd = os.open("cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup)
    except FileNotFoundError:
        return
    except PermissionError:
        _kill_one_by_one(cgroup, deadline)
        return
    try:
        os.write(fd, b"1")
        # That leaves out a process whose first thread has ended, all others going on (tried: 6.18).
        kill_each(_processes(cgroup))
    except OSError:
        # ENODEV: the cgroup went away, and with it the processes.
        pass
    finally:
        os.close(fd)


def _kill_one_by_one(cgroup: int, deadline: float) -> None:
    try:
        while (pids := _processes(cgroup)) and time.monotonic() < deadline:
            kill_each(pids)
            _await_child()
    except OSError:
        # ENODEV, as above.
        pass


def kill_each(pids: Iterable[int]) -> None:
    """Kill these processes, of which some may have ended, or be another user's."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def kill_others(cgroup: int, deadline: float) -> bool:
    """Kill all processes of the cgroup but the caller; return whether that came to an end."""
    while others := _processes(cgroup) - {os.getpid()}:
        if time.monotonic() > deadline:
            return False
        kill_each(others)
        _await_child()
        _reap()
    return True


def _processes(cgroup: int) -> set[int]:
    """Return the PIDs in the cgroup and all below it."""
    pids: set[int] = set()
    # os.walk would follow a path; fwalk stays on descriptors.
    for _, _, _, directory in os.fwalk(".", dir_fd=cgroup, onerror=None):
        try:
            fd = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        except FileNotFoundError:
            continue
        with open(fd, "rb") as file:
            pids.update(map(int, file.read().split()))
    return pids - {0}


def _await_child() -> None:
    """Wait for the next SIGCHLD (blocked), for a moment at most."""
    signal.sigtimedwait([signal.SIGCHLD], 0.05)


def _reap() -> None:
    """Reap what was killed."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def empty(cgroup: int, deadline: float) -> bool:
    """Kill what is in the cgroup or below until there is nothing; return whether that came to pass.

    Again and again, for what had forked before it was killed by itself.
    """
    try:
        fd = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup)
    except FileNotFoundError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while b"populated 1" in os.pread(fd, 4096, 0):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            poll.poll(min(remaining, RECHECK_SECONDS) * 1000)
            kill(cgroup, deadline)
    except OSError:
        # ENODEV: removed while it was read, which systemd does only when it is empty.
        pass
    finally:
        os.close(fd)
    return True
