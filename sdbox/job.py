"""One running job: its handle, and its supervision from the payload's start to the unit's end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sdbox import verdict
from sdbox.errors import ManagerRefused, SdboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdbox.cgroup import Cgroup
    from sdbox.helper import Helper
    from sdbox.manager import Manager
    from sdbox.plan import Plan
    from sdbox.report import Report
    from sdbox.result import Result, Usage
    from sdbox.watch import Excess, MemoryWatch

# How long a killed tree may take to be gone: a process in uninterruptible sleep holds it up.
_END_SECONDS = 30.0


class Job:
    """A job that runs. Made by `Launcher.start`; `await wait()` gives its Result.

    `id` and `unit` name it, `pid` is the payload's as init sees it.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        init_pid: int,
        payload: int,
        report: Report,
        cgroup: Cgroup,
        manager: Manager,
        helper: Helper,
    ) -> None:
        self.plan = plan
        self.id = plan.job
        self.unit = plan.unit
        self.started_at = time.time()
        self._started_monotonic = time.monotonic()
        self._init_pid = init_pid
        self._payload = payload
        self._report = report
        self._cgroup = cgroup
        self._manager = manager
        self._helper = helper
        self._excess: Excess | None = None
        self._killed = False
        self._watch = self._memory_watch()
        self._ending: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._supervise(), name=f"sdbox {self.unit}")

    def on_end(self, callback: Callable[[Job], object]) -> None:
        """Have a function called with this job when it has ended."""
        self._task.add_done_callback(lambda _: callback(self))

    def send_signal(self, number: int) -> None:
        """Send a signal to the payload alone. Nothing happens when it has ended."""
        if self._payload >= 0:
            # ESRCH: it has ended. EPERM, EBADF: what init sent is not its payload's descriptor.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._payload, number)

    async def kill(self) -> None:
        """Kill the whole tree, at once and for good."""
        self._killed = True
        await self._manager.destroy(self.unit)

    async def wait(self) -> Result:
        """Wait for the end of the job, and of its unit. Cancelling the wait lets the job run."""
        return await asyncio.shield(self._task)

    async def _supervise(self) -> Result:
        measuring = asyncio.create_task(self._watch.run()) if self._watch else None
        try:
            status = await self._report.ended
            if measuring is not None:
                measuring.cancel()
            usage = self._usage()
            timed_out = await self._timed_out(status)
            await self._end_unit()
            return self._result(status, usage, timed_out=timed_out)
        finally:
            if measuring is not None:
                measuring.cancel()
            self._close()

    async def _end_unit(self) -> None:
        """Leave nothing of the job: processes, unit, private directories."""
        if self._leftovers():
            await self._manager.destroy(self.unit)
        self._report.close()
        await self._manager.wait_removed(self.unit, timeout=_END_SECONDS)
        left = await self._helper.finish(self.id)
        if left:
            raise SdboxError(
                f"{left}: not removed", hint="Remove it by hand; `lsattr` may tell why"
            )

    def _leftovers(self) -> bool:
        return bool(set(self._cgroup.processes()) - {self._init_pid})

    def _memory_watch(self) -> MemoryWatch | None:
        if self.plan.watched_memory_bytes is None:
            return None
        from sdbox.watch import MemoryWatch

        return MemoryWatch(self._cgroup.processes, self.plan.watched_memory_bytes, self._on_excess)

    def _on_excess(self, excess: Excess) -> None:
        self._excess = excess
        self._ending = asyncio.create_task(self._manager.destroy(self.unit))

    def _wall_seconds(self) -> float:
        return self._report.ended_monotonic - self._started_monotonic

    async def _timed_out(self, status: int | None) -> bool:
        """Ask the manager whether it stopped the unit for its RuntimeMaxSec=."""
        limit = self.plan.runtime_max_seconds
        if limit is None or self._wall_seconds() < limit:
            return False
        with contextlib.suppress(ManagerRefused):
            return await self._manager.scope_result(self.unit) == "timeout"
        return False

    def _usage(self) -> Usage:
        usage = self._cgroup.usage()
        peak = usage.memory_peak_bytes
        if self._watch is not None:
            peak = self._watch.peak_bytes
        return replace(usage, memory_peak_bytes=peak)

    def _result(self, status: int | None, usage: Usage, *, timed_out: bool) -> Result:
        return verdict.result(
            self.plan,
            verdict.Ending(
                status=status,
                started_at=self.started_at,
                ended_at=self._report.ended_at,
                wall_seconds=self._wall_seconds(),
                excess=self._excess,
                timed_out=timed_out,
                killed=self._killed,
            ),
            usage,
        )

    def _close(self) -> None:
        self._report.close()
        self._cgroup.close()
        if self._payload >= 0:
            os.close(self._payload)
            self._payload = -1
