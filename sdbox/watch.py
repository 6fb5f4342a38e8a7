"""Limits that sdbox keeps itself, by measuring, where the kernel has no controller for them.

A watch is weaker than the kernel: it acts after the fact, and a job that grows fast gets past the
limit for as long as a round takes. It says so in the result's `enforcement`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# The watch rests so long that measuring takes at most this share of one CPU, and at least
# _SHORTEST_REST seconds, and at most _LONGEST_REST, whatever the cost: a limit must be kept.
_LARGEST_SHARE = 0.01
_SHORTEST_REST = 0.1
_LONGEST_REST = 5.0

# Of /proc/PID/smaps_rollup: what is the process's own, its share of what it shares, and no page
# cache. In KiB.
_OWN = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


@dataclass(frozen=True, kw_only=True, slots=True)
class Excess:
    """A limit was passed: the usage in bytes, and the process that had most of it."""

    usage_bytes: int
    largest_name: str
    largest_pid: int
    largest_bytes: int


class MemoryWatch:
    """Measures a job's memory, keeps its peak, and tells once when it passes the limit.

    `processes` returns the job's PIDs. `limit_bytes` None only measures.
    """

    def __init__(
        self,
        processes: Callable[[], Iterable[int]],
        limit_bytes: int,
        on_excess: Callable[[Excess], None],
    ) -> None:
        self._processes = processes
        self._limit = limit_bytes
        self._on_excess = on_excess
        self.peak_bytes: int | None = None

    async def run(self) -> None:
        """Measure until the limit is passed."""
        while True:
            started = time.thread_time()
            excess = self._measure()
            if excess is not None:
                self._on_excess(excess)
                return
            cost = time.thread_time() - started
            await asyncio.sleep(min(max(_SHORTEST_REST, cost / _LARGEST_SHARE), _LONGEST_REST))

    def _measure(self) -> Excess | None:
        sizes = {pid: size for pid in self._processes() if (size := own_memory(pid)) is not None}
        if not sizes:
            return None
        total = sum(sizes.values())
        self.peak_bytes = max(total, self.peak_bytes or 0)
        if total <= self._limit:
            return None
        largest = max(sizes, key=sizes.__getitem__)
        return Excess(
            usage_bytes=total,
            largest_name=_name(largest),
            largest_pid=largest,
            largest_bytes=sizes[largest],
        )


def own_memory(pid: int) -> int | None:
    """Return the bytes of a process's own memory, its share of shared memory included.

    None for a process that is gone.
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    lines = (line.split() for line in text.splitlines())
    return sum(int(fields[1]) for fields in lines if fields[0] in _OWN) * 1024


def _name(pid: int) -> str:
    """Return a process's name, whole where /proc/PID/comm cuts it short."""
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"
