"""What can be done to a running job, whoever started it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox.cgroup import Cgroup
from sdbox.errors import (
    ManagerRefused,
    ManagerUnavailable,
    NoSuchJob,
    SdboxError,
    TimedOut,
    Unenforceable,
)
from sdbox.host.facts import host_at
from sdbox.journal import events
from sdbox.management import groups, killing
from sdbox.management.change import make_change
from sdbox.management.ending import report_of
from sdbox.management.groups import job_of
from sdbox.management.memo import recall, rewrite
from sdbox.plan.slices import UNITS_OWN
from sdbox.record import record, replaced, values_of
from sdbox.systemd import readback
from sdbox.systemd.calls import CGROUP_GONE, NO_SUCH_UNIT, UNIT_BUSY, UNIT_INACTIVE
from sdbox.systemd.frozen import refuse_frozen_above
from sdbox.usage.memory import process_name
from sdbox.values import INFINITY

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from sdbox.box import Box
    from sdbox.journal.events import Fields
    from sdbox.journal.writer import Journal
    from sdbox.manager import Manager
    from sdbox.result import Usage

# Freezing takes milliseconds, unless a task sleeps and can't be woken.
FREEZE_SECONDS = 10.0
# Likewise, dying.
KILL_SECONDS = 30.0
# What epoll_wait(2) takes in milliseconds is less than 25 days.
_LONGEST_SECONDS = 1_000_000.0


@record
class Target:
    """A job that something is to be done to. `directory` is its cgroup's, `root` the manager's.

    `kind` is the manager's, as Endpoint has it; `journal` is where it is told what was done.
    `group` is what is there instead of a cgroup, without a manager.
    """

    manager: Manager
    kind: str
    unit: str
    root: str
    directory: str
    journal: Journal
    group: Cgroup | None = None

    @property
    def whole(self) -> str:
        """The unit that has all of the job in it: its own slice, where it has one."""
        name = os.path.basename(self.directory)
        return name if name.endswith(".slice") else self.unit

    def taken_by(self, property_name: str) -> str:
        """The one of its units that has a property."""
        return self.unit if property_name in UNITS_OWN else self.whole

    def tell(self, event: Callable[[str, str, str], Fields]) -> None:
        """Have the journal know of it."""
        self.journal.send(event(job_of(self.unit), self.unit, self.kind))


@record
class Figures:
    """What a job uses now, and what it has used so far. Memory is the job's own."""

    memory_bytes: int | None
    tasks: int | None
    used: Usage

    def to_json(self) -> dict[str, Any]:
        """Return the figures as one flat object."""
        now = {"memory_bytes": self.memory_bytes, "tasks": self.tasks}
        return {**now, **values_of(self.used)}


async def freeze(target: Target, *, timeout: float = FREEZE_SECONDS) -> None:
    """Freeze a job; return when all of it is. Twice is once. Raises TimedOut, which names what
    can't be frozen; the rest of the job is frozen all the same.
    """
    was_asked = _is_asked_to_freeze(target)
    await _freezer(target, target.manager.freeze, timeout, "frozen")
    if not was_asked:
        target.tell(events.frozen)


async def thaw(target: Target, *, timeout: float = FREEZE_SECONDS) -> None:
    """Undo freeze(); twice is once. Refused while a slice above is frozen."""
    refuse_frozen_above(target.unit, target.root, target.directory)
    was_asked = _is_asked_to_freeze(target)
    await _freezer(target, target.manager.thaw, timeout, "thawed")
    if was_asked:
        target.tell(events.thawed)


def _is_asked_to_freeze(target: Target) -> bool:
    with contextlib.suppress(SdboxError), _opened(target) as cgroup:
        return bool(cgroup.value("cgroup.freeze"))
    return False


async def _freezer(
    target: Target,
    verb: Callable[..., Coroutine[Any, Any, None]],
    seconds: float,
    wanted: str,
) -> None:
    try:
        await verb(target.whole, timeout=seconds)
    except TimedOut:
        raise _stuck(target, f"not {wanted} after {seconds:g} s") from None
    except ManagerRefused as error:
        if error.name == UNIT_BUSY:
            raise _stuck(target, "still being frozen or thawed") from None
        raise _known(target, error) from None


async def send(target: Target, number: int) -> None:
    """Send a signal to every process of a job. Raises ManagerRefused."""
    with _ended(target):
        await target.manager.kill(target.whole, number)


async def kill(target: Target, *, timeout: float = KILL_SECONDS) -> None:
    """Freeze a job, SIGKILL all of it, and return when it is gone: nothing gets away."""
    target.tell(events.killed)
    try:
        await _destroy(target, timeout)
    except TimedOut:
        raise _stuck(target, f"not dead after {timeout:g} s") from None


async def _destroy(target: Target, timeout: float) -> None:
    with contextlib.ExitStack() as stack:
        try:
            group = stack.enter_context(_opened(target))
        except SdboxError:
            await target.manager.destroy(target.whole, timeout=timeout)
        else:
            await killing.destroy(target.manager, target.whole, group, timeout=timeout)


async def stop(target: Target) -> None:
    """Ask a job to end, as its KillSignal= and TimeoutStopSec= say, then kill it."""
    kind = "Service" if target.unit.endswith(".service") else "Scope"
    usec = await target.manager.unit_property(target.unit, kind, "TimeoutStopUSec")
    # Once to end when asked, and once to die when killed.
    seconds = _LONGEST_SECONDS if usec == INFINITY else 2 * usec / 1e6 + KILL_SECONDS
    try:
        await target.manager.stop(target.whole, timeout=min(seconds, _LONGEST_SECONDS))
    except TimedOut:
        raise _stuck(target, f"not stopped after {seconds:g} s") from None


async def wait(target: Target) -> dict[str, Any] | None:
    """Wait for a job's end; return its report, None where its supervisor went without one."""
    with _opened(target) as cgroup:
        report = await report_of(cgroup)
    # systemd forgets a unit a moment after its cgroup.
    with contextlib.suppress(ManagerUnavailable, TimedOut):
        await target.manager.wait_removed(target.whole)
    return report


async def set_property(target: Target, change: Box) -> None:
    """Change the box of a job, for as long as it runs. Raises Unenforceable, too."""
    if target.group is not None:
        raise Unenforceable(
            f"{target.unit}: it has no manager that could change its box",
            hint="Start it with another --manager",
        )
    with _opened(target) as cgroup:
        memo = recall(cgroup.fd)
        box = (memo and memo.box) or {}
        version = target.manager.version
        made = make_change(change, box, host_at(target.kind, target.root), version)
        with _ended(target):
            for unit in dict.fromkeys((target.unit, target.whole)):
                properties = [p for p in made.properties if target.taken_by(p.name) == unit]
                if properties:
                    await target.manager.set_properties(unit, properties)
        readback.check(target.unit, cgroup, made.files)
        if memo is not None:
            rewrite(cgroup.fd, replaced(memo, box=made.box))


def figures(target: Target) -> Figures:
    """Return what a job uses now, and has used. Raises NoSuchJob when it has ended."""
    with _opened(target) as cgroup:
        counted = groups.counted_memory(cgroup)
        return Figures(
            memory_bytes=groups.measured_memory(cgroup) if counted is None else counted,
            tasks=groups.tasks(cgroup),
            used=cgroup.usage(),
        )


def sleepers(cgroup: Cgroup) -> list[int]:
    """Return the processes that have a task in uninterruptible sleep."""
    return [pid for pid in cgroup.processes() if "D" in _task_states(pid)]


def _task_states(pid: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8", errors="replace") as file:
                # proc_pid_stat(5): the state follows the name, which may hold anything.
                yield file.read().rpartition(")")[2].split()[0]


def _stuck(target: Target, what: str) -> TimedOut:
    with contextlib.suppress(SdboxError), _opened(target) as cgroup:
        pids = sleepers(cgroup)
        if pids:
            named = ", ".join(f"{process_name(pid)} (PID {pid})" for pid in pids)
            return TimedOut(
                f"{target.unit}: {what}: uninterruptible sleep of {named}",
                hint="It is done when that wakes up; /proc/PID/stack tells what it waits for",
            )
    return TimedOut(f"{target.unit}: {what}", hint=f"See `systemctl status {target.unit}`")


@contextlib.contextmanager
def _ended(target: Target) -> Iterator[None]:
    try:
        yield
    except ManagerRefused as error:
        raise _known(target, error) from None


def _known(target: Target, error: ManagerRefused) -> SdboxError:
    """Return what to raise: that a unit is not there is that there is no such job."""
    if error.name == NO_SUCH_UNIT:
        return no_such_job(target.unit)
    if error.name in (CGROUP_GONE, UNIT_INACTIVE):
        return NoSuchJob(f"{target.unit}: it is ending", hint="`sdbox kill` ends it at once")
    return error


def no_such_job(name: str) -> NoSuchJob:
    """Return the error for a name that no job has."""
    return NoSuchJob(f"{name}: no such job", hint="`sdbox list` shows those that there are")


def _opened(target: Target) -> AbstractContextManager[Cgroup]:
    if target.group is not None and not target.group.is_gone:
        return contextlib.nullcontext(target.group)
    try:
        return Cgroup.open(target.directory)
    except SdboxError:
        raise no_such_job(target.unit) from None
