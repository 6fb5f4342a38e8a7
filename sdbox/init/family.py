"""The processes of a box without a cgroup: all descendants of its init, which is a subreaper.

Whoever loses his parent becomes init's child, so that none leaves the family by a fork or by
setsid(2). Only who can kill init, as a job without a PID namespace of its own can, gets out; then
the helper, a subreaper as well, has them, and ends them.

`proc` is a descriptor of a /proc, in which all processes are looked up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Container, Iterator, Sequence

# proc_pid_stat(5): stopped, by a signal or a tracer; or dead, and not reaped or about to be.
_AT_REST = frozenset("TtZX")
# The field, from the one after the name on, that tells of how many threads there are.
THREADS = 17
_PAUSE_SECONDS = 0.01


def opened() -> int:
    """Return a descriptor of this process's own /proc."""
    return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def descendants(proc: int, pid: int) -> list[int]:
    """Return the PIDs of the children of a process, of their children, and so on."""
    found: list[int] = []
    parents = [pid]
    while parents:
        children = list(_children(proc, parents.pop()))
        found += children
        parents += children
    return found


def _children(proc: int, pid: int) -> Iterator[int]:
    # A child is that of the thread which has forked it.
    for children in _of_threads(proc, pid, "children"):
        yield from map(int, children.split())


def _of_threads(proc: int, pid: int, file: str) -> Iterator[str]:
    """Return what a file says of each thread of a process; nothing once that has ended."""
    try:
        threads = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        return
    try:
        for thread in os.listdir(threads):
            yield _read(threads, f"{thread}/{file}")
    except OSError:
        # It has ended.
        pass
    finally:
        os.close(threads)


def stat(proc: int, pid: int) -> list[str]:
    """Return the fields of proc_pid_stat(5) after the name; none for a process that is gone."""
    return _fields(_read(proc, f"{pid}/stat"))


def _fields(stat: str) -> list[str]:
    # The name may hold anything.
    return stat.rpartition(")")[2].split()


def is_dead(fields: Sequence[str]) -> bool:
    """Whether, by what stat() gave of it, a process has ended: all its threads, that is."""
    # That of a process is the state of its first thread, which may end before the others.
    return fields[:1] in ([], ["X"]) or (fields[0] == "Z" and int(fields[THREADS]) < 2)


def _read(directory: int, name: str) -> str:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def send(proc: int, pid: int, number: int, parents: Container[int]) -> None:
    """Send a signal to a process, if it has one of these parents: the PID may be another's now."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        fields = stat(proc, pid)
        if fields and int(fields[1]) in parents:
            signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        # It has ended; or a set-user-ID program has made it somebody else.
        pass
    finally:
        os.close(pidfd)


def signal_all(proc: int, pid: int, number: int) -> None:
    """Send a signal to all descendants of a process."""
    family = {pid, *descendants(proc, pid)}
    for member in family - {pid}:
        send(proc, member, number, family)


def stop_all(proc: int, pid: int) -> bool:
    """Have all descendants of a process stop; return whether all that there are have by now."""
    if all(_is_at_rest(proc, one) for one in descendants(proc, pid)):
        return True
    signal_all(proc, pid, signal.SIGSTOP)
    return False


def _is_at_rest(proc: int, pid: int) -> bool:
    fields = stat(proc, pid)
    state = fields[:1]
    if state == ["D"]:
        # As vfork(2) has it wait for a child, which is stopped: it stops before it goes on.
        return any(stat(proc, child)[:1] == ["T"] for child in _children(proc, pid))
    if state == ["Z"] and not is_dead(fields):
        stats = map(_fields, _of_threads(proc, pid, "stat"))
        return all(_AT_REST.issuperset(one[:1]) for one in stats)
    return _AT_REST.issuperset(state)


def kill_children(proc: int, spared: Container[int], deadline: float) -> bool:
    """Kill all descendants of this process but for some children; return whether that succeeded.

    Who is stopped can't fork any more: so all are, before they are killed.
    """
    own = os.getpid()
    while children := [pid for pid in _children(proc, own) if pid not in spared]:
        if time.monotonic() > deadline:
            return False
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for child in children:
                signal_all(proc, child, number)
                send(proc, child, number, (own,))
        signal.sigtimedwait([signal.SIGCHLD], _PAUSE_SECONDS)
        for child in children:
            _reap(child)
    return True


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
