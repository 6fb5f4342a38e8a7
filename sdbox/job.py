"""One running job: its handle, and its supervision from the payload's start to the unit's end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from sdbox import loop, verdict
from sdbox.errors import ManagerRefused, ManagerUnavailable, SdboxError, TimedOut
from sdbox.journal import events
from sdbox.kernel.pidfd import is_stopped
from sdbox.management.memo import keep_result
from sdbox.record import replaced
from sdbox.usage.meter import Meter

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from sdbox.box import Box
    from sdbox.journal.writer import Journal
    from sdbox.kernel.kmsg import Victim
    from sdbox.launch.beginning import Launch
    from sdbox.launch.helper import Helper
    from sdbox.launch.placing import Placed
    from sdbox.launch.report import Report
    from sdbox.management.verbs import Figures, Target
    from sdbox.manager import Manager
    from sdbox.nesting.door import Door
    from sdbox.result import Result, Usage
    from sdbox.usage.series import Series
    from sdbox.watch.disk import QuotaWatch
    from sdbox.watch.limits import Excess, Watch

# How long systemd may take to end a unit: it may be busy, be gone for a moment with its bus, or
# wait for a process in uninterruptible sleep. Without it, only the last is waited for.
_END_SECONDS = 90.0
_KILL_SECONDS = 30.0


class Job:
    """A job that runs. Made by `Launcher.start`; `await wait()` gives its Result.

    `id` and `unit` name it; `plan` is what was asked for and how it is kept, and `series` writes
    the record of its usage, where one was asked for.
    """

    def __init__(
        self,
        *,
        launch: Launch,
        placed: Placed,
        payload: int,
        report: Report,
        manager: Manager,
        helper: Helper,
        journal: Journal,
        door: Door | None = None,
    ) -> None:
        self.plan = launch.plan
        self.id = self.plan.job
        self.unit = self.plan.unit
        self.started_at = time.time()
        self._started_monotonic = time.monotonic()
        self._placed = placed
        self._inits = placed.inits
        self._payload = payload
        self._report = report
        self._cgroup = placed.cgroup
        self._manager = manager
        self._helper = helper
        self._journal = journal
        self._launch = launch
        self._door = door
        self.series: Series | None = None
        self._excess: Excess | None = None
        self._fault: BaseException | None = None
        self._killed = False
        self._ending_task: asyncio.Task[None] | None = None
        self._quota: QuotaWatch | None = None
        self._measured_peak: Callable[[], int | None] = lambda: None
        self._meter = Meter(placed.cgroup, lambda: self._measured_peak(), self._on_oom_kill)
        self._besides: list[asyncio.Task[None]] = []
        self._start_record()
        self._task = loop.running().create_task(self._supervise(), name=f"sdbox {self.unit}")

    def on_end(self, callback: Callable[[Job], object]) -> None:
        """Have a function called with this job when it has ended."""
        self._task.add_done_callback(lambda _: callback(self))

    def on_stopped(self, callback: Callable[[], object]) -> None:
        """Have a function called when the payload was stopped by a signal, as by ^Z."""
        self._report.on_stopped = callback

    def on_continued(self, callback: Callable[[], object]) -> None:
        """Have a function called when a payload that was stopped goes on."""
        self._report.on_continued = callback

    @property
    def is_stopped(self) -> bool:
        """Whether the payload is stopped by a signal, as far as init has told."""
        # A busy init may not have told yet that it goes on.
        return self._report.stop > 0 and is_stopped(self._payload)

    def resume(self) -> None:
        """Continue a payload that was stopped, unless it has gone on since, or been stopped again.

        A SIGCONT of send_signal() may come late, and undo a later stop.
        """
        self._report.resume()

    def send_signal(self, number: int) -> None:
        """Send a signal to the payload alone. Nothing happens when it has ended."""
        if self._payload >= 0:
            # ESRCH: it has ended. EPERM, EBADF: what init sent is not its payload's descriptor.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._payload, number)

    async def kill(self) -> None:
        """Kill the whole tree, at once and for good. Nothing happens when the job has ended."""
        if not self._report.ended.done():
            self._killed = True
            self._journal.send(events.killed(self.id, self.unit, self.plan.manager))
            await self._destroy()

    async def freeze(self) -> None:
        """Freeze the whole tree; return when all of it is. Twice is once. Raises TimedOut."""
        from sdbox.management import verbs

        await verbs.freeze(self._target())

    async def thaw(self) -> None:
        """Undo freeze(). Twice is once."""
        from sdbox.management import verbs

        await verbs.thaw(self._target())

    async def signal_all(self, number: int) -> None:
        """Send a signal to every process of the job."""
        from sdbox.management import verbs

        await verbs.send(self._target(), number)

    async def stop(self) -> None:
        """Ask the tree to end, as KillSignal= and TimeoutStopSec= say, then kill it."""
        from sdbox.management import verbs

        await verbs.stop(self._target())

    def usage(self) -> Figures:
        """Return what the job uses now, and has used so far. Raises NoSuchJob after its end."""
        from sdbox.management import verbs

        return verbs.figures(self._target())

    async def set_property(self, change: Box) -> None:
        """Change the box while the job runs: what systemd can change. Raises Unenforceable."""
        from sdbox.management import verbs

        await verbs.set_property(self._target(), change)

    def _target(self) -> Target:
        # Here, since no launch has a use for it.
        from sdbox.management.verbs import Target

        return Target(
            manager=self._manager,
            kind=self.plan.manager,
            unit=self.unit,
            root=self._cgroup.name.removesuffix(self.plan.tree),
            directory=self._cgroup.name,
            journal=self._journal,
            group=self._cgroup if self.plan.manager == "none" else None,
        )

    async def wait(self) -> Result:
        """Wait for the end of the job, and of its unit. Cancelling the wait lets the job run."""
        return await loop.shield(self._task)

    async def _supervise(self) -> Result:
        try:
            self._beside(self._meter.run())
            self._start_watches()
            status = await self._report.ended
            for task in self._besides:
                task.cancel()
            self._look_at_quota(status)
            usage = self._completed(self._meter.read())
            limit = self._meter.memory_limit(self.plan.memory_limit_bytes)
            self.plan = replaced(self.plan, memory_limit_bytes=limit)
            ending = await self._ending(status, usage)
            result = verdict.result(self.plan, ending, usage)
            await self._end_unit(result)
            if self._fault is not None:
                raise self._fault
            return result
        finally:
            for task in self._besides:
                task.cancel()
            self._close()

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = loop.running().create_task(work)
        task.add_done_callback(self._on_fault)
        self._besides.append(task)

    def _on_fault(self, task: asyncio.Task[None]) -> None:
        """End the job where what keeps its limits has failed: it must not go on without."""
        if task.cancelled() or task.exception() is None or self._fault is not None:
            return
        self._fault = task.exception()
        self._end(self._destroy())

    def _end(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin to end the job. It is seen through even if the payload ends meanwhile."""
        self._ending_task = loop.running().create_task(work)

    def _start_record(self) -> None:
        if self._launch.record is None:
            return
        from sdbox.usage.series import Series

        self.series = Series(self._launch.record)
        self.series.start(self.plan, self._cgroup)
        if self.series.error is None:
            self._beside(self.series.run(self._cgroup))

    def _start_watches(self) -> None:
        if not self.plan.watched:
            return
        from sdbox.watch.limits import MemoryWatch, keep, watches_for

        for watch in watches_for(self.plan.watched, self._cgroup, self._inits):
            if isinstance(watch, MemoryWatch):
                self._measured_peak = watch.peak
            self._beside(keep(watch, self._on_excess))
        if "DiskMax" in self.plan.watched:
            for watch in self._disk_watches(self.plan.watched["DiskMax"]):
                self._beside(keep(watch, self._on_excess))

    def _disk_watches(self, limit: int) -> Iterator[Watch]:
        from sdbox.watch.disk import DiskWatch, QuotaWatch

        yield DiskWatch(self._report.disk, limit)
        if self.plan.project is not None:
            self._quota = QuotaWatch(self._report.disk, self.plan.project, limit)
            yield self._quota

    def _look_at_quota(self, status: int | None) -> None:
        """See whether a job that has failed was at its limit, and its watch had not come to it."""
        if self._quota is None or self._excess is not None or not status:
            return
        from sdbox.watch.limits import Excess

        excess = self._quota.look()
        if isinstance(excess, Excess):
            self._tell_excess(excess)

    def _on_excess(self, excess: Excess) -> None:
        if self._excess is None:
            self._tell_excess(excess)
            self._end(self._stop() if excess.ask else self._destroy())

    def _tell_excess(self, excess: Excess) -> None:
        self._excess = excess
        self._journal.send(events.limit_passed(self.plan, excess, self._meter.read()))

    def _on_oom_kill(self) -> None:
        """End all of a nestable job: systemd does so only with the unit that had the victim."""
        if self.plan.own_slice and self.plan.ends_when_out_of_memory and not self._ending_task:
            self._end(self._destroy())

    async def _stop(self) -> None:
        """Ask the tree to end, as KillSignal= and TimeoutStopSec= say, then kill it."""
        try:
            await self._manager.stop(self.plan.whole, timeout=self.plan.stop_seconds + _END_SECONDS)
        except (ManagerUnavailable, TimedOut):
            await self._destroy()

    async def _destroy(self) -> None:
        from sdbox.management import killing  # here, since most jobs leave nothing

        # The figures go with the unit.
        self._meter.read()
        whole = self.plan.whole
        try:
            await killing.destroy(self._manager, whole, self._cgroup, timeout=_END_SECONDS)
        except (ManagerUnavailable, TimedOut):
            # Then without systemd, which forgets the unit when it comes round.
            await self._cgroup.end(_KILL_SECONDS)

    async def _end_unit(self, result: Result) -> None:
        """Leave nothing of the job: processes, unit, private directories."""
        if self._leftovers():
            await self._destroy()
        self._report.dismiss()
        with contextlib.suppress(ManagerUnavailable):
            self._helper.finish(self._launch.key)
        # While init ends.
        keep_result(self._cgroup.fd, result)
        await self._tell_end(result)
        async with loop.within(_END_SECONDS, f"the end of init in {self.unit}"):
            await loop.readable(self._placed.init)
        # systemd would see by itself that the cgroup is empty, but the kernel tells of that at most
        # every 10 ms (CGROUP_FILE_NOTIFY_MIN_INTV), which is longer than many a job.
        # Without systemd there is a result all the same, and nothing left but its unit.
        with contextlib.suppress(ManagerUnavailable, TimedOut):
            await self._manager.stop(self.plan.whole, timeout=_END_SECONDS)
        await self._see_directories_removed()
        if self._ending_task is not None:
            await self._ending_task

    async def _tell_end(self, result: Result) -> None:
        """Write to the journal how the job ended, after all that it has written there itself."""
        if self._launch.to_journal:
            from sdbox.journal.output import taken_in

            await taken_in(self._launch.to_journal)
        for entry in events.ended(self.plan, result, limit_told=self._excess is not None):
            self._journal.send(entry)

    async def _see_directories_removed(self) -> None:
        left = await self._helper.finished(self._launch.key)
        if left:
            raise SdboxError(
                f"{left}: not removed",
                hint="Remove it by hand; `lsattr` may tell why, or it is another one by now",
            )

    def _leftovers(self) -> bool:
        return bool(set(self._cgroup.processes()).difference(self._inits))

    async def _ending(self, status: int | None, usage: Usage) -> verdict.Ending:
        wall_seconds = self._report.ended_monotonic - self._started_monotonic
        return verdict.Ending(
            status=status,
            started_at=self.started_at,
            ended_at=self._report.ended_at,
            wall_seconds=wall_seconds,
            excess=self._excess,
            timed_out=await self._timed_out(status, wall_seconds),
            killed=self._killed,
            victim=self._victim() if usage.oom_kills else None,
            by_own_limit=self._meter.by_own_limit,
        )

    def _completed(self, usage: Usage) -> Usage:
        """Return the usage with what systemd may have been too quick to leave in the cgroup.

        It kills all of a unit that is out of memory, init too, and removes the cgroup. Then only
        the kernel's log tells that the job had come to its limit, which may be root's to read, and
        what its slice has counted; how often, neither does.
        """
        kept = self.plan.enforcement.get("MemoryMax") == "kernel"
        if usage.oom_kills or not kept or not self._cgroup.is_gone:
            return usage
        if self._victim() is None and not self._meter.missed_a_kill:
            return usage
        return replaced(usage, oom_kills=1, memory_peak_bytes=self.plan.memory_limit_bytes)

    def _victim(self) -> Victim | None:
        from sdbox.kernel import kmsg

        return kmsg.last_victim(self.plan.tree, since=self._started_monotonic)

    async def _timed_out(self, status: int | None, wall_seconds: float) -> bool:
        """Tell whether the manager has stopped the unit for its RuntimeMaxSec=."""
        limit = self.plan.runtime_max_seconds
        if limit is None:
            return False
        with contextlib.suppress(ManagerRefused, ManagerUnavailable, TimedOut):
            if await self._manager.unit_result(self.unit) == "timeout":
                return True
        # A payload that did not end when asked was killed, and the unit is gone with it.
        return status is None and not self._killed and wall_seconds >= limit

    def _close(self) -> None:
        self._meter.close()
        self._report.close()
        if self._quota is not None:
            self._quota.close()
        if self._door is not None:
            self._door.close()
        self._placed.close()
        if self._payload >= 0:
            os.close(self._payload)
            self._payload = -1
