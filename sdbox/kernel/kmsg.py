"""Whom the kernel killed for memory: only its log has the name and the size of a dead process."""

from __future__ import annotations

import contextlib
import errno
import os

from sdbox.record import record

_KMSG = "/dev/kmsg"
_LARGEST_RECORD = 8192
# The log's clock is not quite the monotonic one.
_CLOCKS_APART = 2.0
# The most records that are looked at: a log that others fill meanwhile must come to an end.
_MOST_RECORDS = 200_000


@record
class Victim:
    """A process that the kernel killed. `own_bytes` is its anonymous and shared memory."""

    name: str
    pid: int
    own_bytes: int


def last_victim(cgroup: str, *, since: float = 0.0) -> Victim | None:
    """Return whom the kernel killed last in a cgroup, by its path; None if the log has nobody.

    `since` is a time of the monotonic clock: before it, it was another job's cgroup.
    """
    victim = None
    in_cgroup = False
    for seconds, message in _messages():
        if seconds < since - _CLOCKS_APART:
            continue
        if message.startswith("oom-kill:"):
            in_cgroup = _is_below(_task_cgroup(message), cgroup)
        elif in_cgroup and "Killed process " in message:
            victim = parse_killed(message)
            in_cgroup = False
    return victim


def parse_killed(message: str) -> Victim | None:
    """Parse `… Killed process 42 (name) total-vm:…kB, anon-rss:1kB, …, shmem-rss:2kB, …`."""
    head, _, tail = message.partition("Killed process ")[2].rpartition(") ")
    pid, _, name = head.partition(" (")
    sizes = dict(part.strip().partition(":")[::2] for part in tail.split(","))
    try:
        kilobytes = sum(int(sizes[key].removesuffix("kB")) for key in ("anon-rss", "shmem-rss"))
        return Victim(name=name, pid=int(pid), own_bytes=kilobytes * 1024)
    except (KeyError, ValueError):
        return None


def _task_cgroup(message: str) -> str:
    # Up to the task's name, which is the job's to choose.
    return message.partition(",task_memcg=")[2].partition(",task=")[0]


def _is_below(path: str, cgroup: str) -> bool:
    # The log has paths from the machine's root cgroup, which may be above the manager's.
    return f"{cgroup}/" in f"{path}/"


def _messages() -> list[tuple[float, str]]:
    """Return the records: seconds since boot, and text."""
    messages: list[tuple[float, str]] = []
    with contextlib.suppress(OSError):
        fd = os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            while len(messages) < _MOST_RECORDS:
                messages.append(_next_message(fd))
        finally:
            os.close(fd)
    return messages


def _next_message(fd: int) -> tuple[float, str]:
    """Return a record's time and text; OSError when there is none left (EAGAIN)."""
    while True:
        try:
            record = os.read(fd, _LARGEST_RECORD)
        except OSError as error:
            # What was to be read has been overwritten: go on with what is there.
            if error.errno == errno.EPIPE:
                continue
            raise
        # Documentation/ABI/testing/dev-kmsg: "facts;text\n" and lines of further facts. The third
        # of the facts is a time in microseconds.
        facts, _, text = record.partition(b";")
        seconds = int(facts.split(b",")[2]) / 1_000_000
        return seconds, text.partition(b"\n")[0].decode(errors="replace")
