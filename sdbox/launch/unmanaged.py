"""Jobs without any manager: sdbox does to a job's processes what systemd would do to its unit."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from sdbox import loop
from sdbox.errors import TimedOut
from sdbox.kernel.pidfd import pid_of
from sdbox.launch.placing import Placed
from sdbox.manager import Manager
from sdbox.usage.family import Family
from sdbox.values import INFINITY

if TYPE_CHECKING:
    from sdbox.launch.beginning import Launch
    from sdbox.launch.placing import Connection
    from sdbox.plan import Plan

_LOOK_SECONDS = 0.01
_CALL_SECONDS = 60.0
# No directive is too new for what is not there: what it can't keep is refused by the plan.
_VERSION = 1_000_000


class Unmanaged(Manager):
    """What a job needs of a manager once it runs, for those of this process."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Plan, Family]] = {}

    @property
    def version(self) -> int:
        """Newer than any that a directive could ask for."""
        return _VERSION

    async def close(self) -> None:
        """Forget all."""
        self._jobs.clear()

    def add(self, plan: Plan, family: Family) -> None:
        """Have a job to look after, until stop() or destroy() finds that it has ended."""
        self._jobs[plan.unit] = plan, family

    async def stop(self, unit: str, *, timeout: float | None = None) -> None:
        """Ask all processes to end, and kill what has not after the time for that."""
        if (known := self._jobs.get(unit)) is None:
            return
        plan, family = known
        if family.members():
            family.send(_kill_signal(plan))
            family.send(signal.SIGCONT)
            try:
                await family.wait_empty_async(min(plan.stop_seconds, timeout or _CALL_SECONDS))
            except TimedOut:
                await self.destroy(unit, timeout=timeout)
        self._forget(unit)

    async def destroy(self, unit: str, *, timeout: float | None = None) -> None:
        """SIGKILL all processes but init; return when there are none. Raises TimedOut."""
        if (known := self._jobs.get(unit)) is None:
            return
        seconds, (_, family) = timeout or _CALL_SECONDS, known
        end = time.monotonic() + seconds
        while not family.is_gone and family.members():
            if time.monotonic() > end:
                raise TimedOut(f"{family.name}: not dead after {seconds:g} s")
            family.kill()
            await loop.sleep(_LOOK_SECONDS)
        self._forget(unit)

    def _forget(self, unit: str) -> None:
        known = self._jobs.get(unit)
        if known is not None and known[1].is_gone:
            del self._jobs[unit]

    async def freeze(self, unit: str, *, timeout: float | None = None) -> None:
        """Stop all processes by SIGSTOP; return when they have. Raises TimedOut."""
        seconds = timeout or _CALL_SECONDS
        end = time.monotonic() + seconds
        while not self._jobs[unit][1].stop_all():
            if time.monotonic() > end:
                raise TimedOut(f"{unit}: not stopped after {seconds:g} s")
            await loop.sleep(_LOOK_SECONDS)

    async def thaw(self, unit: str, *, timeout: float | None = None) -> None:
        """Undo freeze(), by SIGCONT."""
        self._jobs[unit][1].send(signal.SIGCONT)

    async def kill(self, unit: str, number: int, *, timeout: float | None = None) -> None:
        """Send a signal to all processes but init."""
        self._jobs[unit][1].send(number)

    async def unit_property(
        self, unit: str, interface: str, name: str, *, timeout: float | None = None
    ) -> Any:
        """What is asked of a unit, be it none: whether it is there, how long stopping may take."""
        if name == "ActiveState":
            return "active"
        if name != "TimeoutStopUSec":
            raise AttributeError(name)
        seconds = self._jobs[unit][0].stop_seconds
        return INFINITY if seconds == float("inf") else int(seconds * 1e6)

    async def unit_result(self, unit: str, *, timeout: float | None = None) -> str:
        """Limits are watches' here: none has been found by a manager."""
        return "success"

    async def wait_removed(self, unit: str, *, timeout: float | None = None) -> None:
        """There is nothing that stays after a job."""


def _kill_signal(plan: Plan) -> int:
    named = (one.value for one in plan.properties if one.name == "KillSignal")
    return int(next(named, signal.SIGTERM))


def _is_first_of_namespace(pid: int) -> bool:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as lines:
        # Its PIDs, from this /proc's namespace to its own (proc_pid_status(5)).
        numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"


async def place(connection: Connection, launch: Launch) -> Placed:
    """Take an init as it is: there is nothing to put it into."""
    plan = launch.plan
    _, pidfd = await connection.helper.launched(launch.key)
    pid = pid_of(pidfd)
    family = Family(
        os.dup(pidfd), f"job {plan.job}", init=pid, private_pids=_is_first_of_namespace(pid)
    )
    assert isinstance(connection.manager, Unmanaged)  # noqa: S101 - by its endpoint's kind
    connection.manager.add(plan, family)
    return Placed(inits=(pid,), init=pidfd, cgroup=family)
