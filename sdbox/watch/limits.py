"""Limits that sdbox keeps itself, by measuring, where the kernel has nothing that keeps them.

A watch is weaker than the kernel: it acts after the fact, and a job that grows fast gets past the
limit for as long as a round takes. It says so in the result's `enforcement`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Protocol

from sdbox import loop
from sdbox.messages import MEGABYTE, memory_message, wall_message
from sdbox.record import record
from sdbox.usage.memory import own_memory, process_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sdbox.cgroup import Cgroup
    from sdbox.result import Reason

# A watch rests so long that measuring takes at most its share of one CPU, but not longer than
# LONGEST_REST seconds, whatever it costs: a limit must be kept.
LARGEST_SHARE = 0.01
LONGEST_REST = 5.0
SHORTEST_REST = 0.1


@record
class Excess:
    """A limit was passed. `message` is for people; `ask` is to stop the job before killing it."""

    reason: Reason
    message: str
    ask: bool


class Watch(Protocol):
    """Keeps one limit of one job, with at most that share of one CPU."""

    share: float

    def look(self) -> Excess | float:
        """Measure; return an excess, or after how many seconds to look again."""


async def keep(watch: Watch, on_excess: Callable[[Excess], None]) -> None:
    """Look again and again, until the limit is passed; tell that once."""
    while True:
        started = time.thread_time()
        seen = watch.look()
        if isinstance(seen, Excess):
            on_excess(seen)
            return
        cost = time.thread_time() - started
        await loop.sleep(min(max(seen, cost / watch.share), LONGEST_REST))


class MemoryWatch:
    """MemoryMax= by what the processes have of their own."""

    share = LARGEST_SHARE

    def __init__(self, cgroup: Cgroup, inits: tuple[int, ...], limit_bytes: int) -> None:
        self._cgroup = cgroup
        self._inits = inits
        self._limit = limit_bytes
        self._peak: int | None = None

    def peak(self) -> int | None:
        """Return the most that was measured so far."""
        return self._peak

    def look(self) -> Excess | float:
        """Measure every process of the job, which init is not."""
        sizes = own_memory(set(self._cgroup.processes()).difference(self._inits))
        total = sum(sizes.values())
        if sizes:
            self._peak = max(total, self._peak or 0)
        if total <= self._limit:
            return SHORTEST_REST
        return Excess(
            reason="memory",
            message=memory_message(self._limit, total) + _largest(sizes),
            ask=False,
        )


class TasksWatch:
    """TasksMax= by counting."""

    share = LARGEST_SHARE

    def __init__(self, cgroup: Cgroup, limit: int) -> None:
        self._cgroup = cgroup
        self._limit = limit

    def look(self) -> Excess | float:
        """Count the tasks: threads, as the kernel's own limit does."""
        tasks = self._cgroup.tasks()
        if tasks <= self._limit:
            return SHORTEST_REST
        message = f"Job has gone over limit of {self._limit} tasks. Last count: {tasks}."
        return Excess(reason="killed", message=message, ask=False)


class CPUTimeWatch:
    """CPU time of the whole tree, in seconds."""

    share = LARGEST_SHARE

    def __init__(self, cgroup: Cgroup, limit_seconds: float) -> None:
        self._cgroup = cgroup
        self._limit = limit_seconds
        self._cpus = os.cpu_count() or 1

    def look(self) -> Excess | float:
        """Read the time, and rest for as long as all CPUs together need to use up what is left.

        Or not that long, where it has to be seen what everybody has used before he has ended.
        """
        used = self._cgroup.cpu_seconds()
        if used is None or used < self._limit:
            needed = (self._limit - (used or 0.0)) / self._cpus
            return SHORTEST_REST if self._cgroup.forgets else max(needed, SHORTEST_REST)
        message = f"Job has gone over CPU time limit of {self._limit:g} seconds."
        return Excess(reason="cpu-time", message=message, ask=True)


class WallWatch:
    """RuntimeMaxSec= by the clock, where no manager looks at it."""

    share = LARGEST_SHARE

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._end = time.monotonic() + limit_seconds

    def look(self) -> Excess | float:
        """Rest for as long as there is time left."""
        left = self._end - time.monotonic()
        if left > 0:
            return left
        message = wall_message(self._limit)
        return Excess(reason="wall-time", message=message, ask=True)


_WATCHES: Mapping[str, Callable[[Cgroup, tuple[int, ...], Any], Watch]] = {
    "MemoryMax": MemoryWatch,
    "TasksMax": lambda cgroup, inits, limit: TasksWatch(cgroup, limit),
    "CPUTimeMaxSec": lambda cgroup, inits, usec: CPUTimeWatch(cgroup, usec / 1_000_000),
    "RuntimeMaxSec": lambda cgroup, inits, usec: WallWatch(usec / 1_000_000),
}


def watches_for(watched: Mapping[str, Any], cgroup: Cgroup, inits: tuple[int, ...]) -> list[Watch]:
    """Return the watches of a cgroup for directives and their values.

    For DiskMax= see sdbox.watch.disk. `inits` are sdbox's own processes.
    """
    known = (name for name in watched if name in _WATCHES)
    return [_WATCHES[name](cgroup, inits, watched[name]) for name in known]


def _largest(sizes: Mapping[int, int]) -> str:
    pid = max(sizes, key=sizes.__getitem__)
    megabytes = sizes[pid] // MEGABYTE
    return f" Largest process: {process_name(pid)} (PID {pid}, {megabytes} megabytes)."
