"""What a job uses, kept while it runs: its cgroup, and all figures in it, go when it ends.

The kernel keeps no peak of a job's own memory (anonymous and shared): memory.peak has page cache
in it. So that is sampled, and bounded by what memory.peak proves.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.record import replaced, values_of
from sdbox.result import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdbox.cgroup import Cgroup

_SAMPLE_SECONDS = 1.0


class Meter:
    """Reads a job's usage now and then, when memory runs out, and at the end.

    `measured_peak` returns the peak in bytes that a watch has seen, where one measures;
    `on_oom_kill` is called when the kernel has killed something for memory. `by_own_limit` is
    whether that was for the job's own limit.
    """

    def __init__(
        self,
        cgroup: Cgroup,
        measured_peak: Callable[[], int | None],
        on_oom_kill: Callable[[], object] = lambda: None,
    ) -> None:
        self._cgroup = cgroup
        self._measured_peak = measured_peak
        self._on_oom_kill = on_oom_kill
        self.by_own_limit = True
        self._sampled_peak: int | None = None
        self._last = Usage()
        self._first_limit = self._limit = cgroup.read("memory.max")
        # Of the slice that the job is in, which outlives it.
        self._above = -1
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY | os.O_CLOEXEC
            self._above = os.open("../memory.events", flags, dir_fd=cgroup.fd)
        self._kills_above = self._count_above()

    def close(self) -> None:
        """Let go of it. Figures that are known stay so."""
        if self._above >= 0:
            os.close(self._above)
            self._above = -1

    def memory_limit(self, planned: int | None) -> int | None:
        """The memory limit of the job: the planned one, unless somebody has changed it since."""
        if self._limit is None or self._limit == self._first_limit:
            return planned
        return None if self._limit == "max" else int(self._limit)

    @property
    def missed_a_kill(self) -> bool:
        """Whether, since the last look at the job's cgroup, memory ran out somewhere in its slice.

        systemd may have removed the cgroup, with what the kernel has counted in it.
        """
        return self._cgroup.is_gone and self._count_above() > self._kills_above

    def _count_above(self) -> int:
        """Return how many have been killed for memory in the slice so far."""
        if self._above < 0:
            return 0
        with contextlib.suppress(OSError):
            lines = os.pread(self._above, 4096, 0).splitlines()
            return int(dict(line.split() for line in lines).get(b"oom_kill", 0))
        return 0

    async def run(self) -> None:
        """Sample until cancelled."""
        with contextlib.closing(_Notification(self._cgroup, "memory.events")) as notification:
            notification.on_change(self.read)
            try:
                while True:
                    await loop.sleep(_SAMPLE_SECONDS)
                    self.read()
            finally:
                notification.forget()

    def read(self) -> Usage:
        """Read all figures; those that can't be read any more stay as they were."""
        # Before, or a kill between the two would be nobody's.
        above = self._count_above()
        usage = self._cgroup.usage()
        if not self._cgroup.is_gone:
            self._kills_above = above
        self._limit = self._cgroup.read("memory.max") or self._limit
        self._sample_own_memory()
        usage = replaced(usage, memory_peak_bytes=self._own_peak(usage))
        known = {name: value for name, value in values_of(usage).items() if value is not None}
        self._last = replaced(self._last, **known)
        if usage.oom_kills:
            self.by_own_limit = self._cgroup.hit_own_memory_limit() is not False
            self._on_oom_kill()
        return self._last

    def _sample_own_memory(self) -> None:
        stat = self._cgroup.flat("memory.stat")
        if stat is not None:
            own = stat["anon"] + stat["shmem"]
            self._sampled_peak = max(own, self._sampled_peak or 0)

    def _own_peak(self, usage: Usage) -> int | None:
        peak = usage.memory_cgroup_peak_bytes
        if peak is None:
            return self._measured_peak()
        if usage.oom_kills:
            # The kernel kills only when no page cache is left to take back.
            return peak
        return max(self._sampled_peak or 0, self._least_own_peak(peak))

    def _least_own_peak(self, peak: int) -> int:
        """Return what of memory.peak can't have been page cache.

        As long as nothing was taken back, there never was more cache than there is now.
        """
        stat = self._cgroup.flat("memory.stat") or {}
        if not stat or stat.get("pgsteal", 1):
            return 0
        cache = stat["file"] - stat["shmem"] + stat.get("slab_reclaimable", 0)
        return max(peak - cache, 0)


class _Notification:
    """Tells of changes of a cgroup's file: POLLPRI, which event loops don't look for, but epoll."""

    def __init__(self, cgroup: Cgroup, file: str) -> None:
        self._epoll = select.epoll()
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup.fd)
            self._epoll.register(self._fd, select.EPOLLPRI | select.EPOLLET)

    def on_change(self, callback: Callable[[], object]) -> None:
        """Have a function called at each change."""
        loop.running().add_reader(self._epoll.fileno(), self._changed, callback)

    def forget(self) -> None:
        """Undo on_change."""
        loop.running().remove_reader(self._epoll.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self._epoll.close()
        if self._fd >= 0:
            os.close(self._fd)

    def _changed(self, callback: Callable[[], object]) -> None:
        self._epoll.poll(0)
        # The kernel takes a reader's last read as what it knows.
        with contextlib.suppress(OSError):
            os.pread(self._fd, 4096, 0)
        callback()
