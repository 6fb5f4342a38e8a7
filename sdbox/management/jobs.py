"""All jobs of a manager, whoever started them: found, looked at, and managed.

async with sdbox.Jobs() as jobs:
    for job in await jobs.find("batch-*"):
        await jobs.freeze(job)

systemd is the only database: what is here comes from it and from the cgroups of its units.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self

from sdbox.bus import Bus, Peer
from sdbox.host.users import user_name
from sdbox.journal.writer import Journal
from sdbox.kernel.pidfd import pid_of
from sdbox.management import groups, verbs
from sdbox.management.groups import Group, job_of
from sdbox.management.verbs import Target, no_such_job
from sdbox.manager import Manager
from sdbox.record import record, values_of
from sdbox.systemd.endpoint import find

if TYPE_CHECKING:
    import signal
    from types import TracebackType
    from typing import Any

    from sdbox.box import Box
    from sdbox.management.memo import Memo
    from sdbox.management.verbs import Figures
    from sdbox.manager import UnitStatus
    from sdbox.systemd.endpoint import Choice, Endpoint

_CALL_SECONDS = 60.0
_PATTERNS = tuple(f"{groups.PREFIX}*{suffix}" for suffix in groups.SUFFIXES)


@record
class JobStatus:
    """One job at one look. What is not known is None.

    `state` sums up systemd's `active_state` and the cgroup's `freezer_state`: running, freezing,
    frozen, frozen-by-parent, stopping, or systemd's own word. `frozen_by` is the slice that is
    frozen. `memo` is what sdbox has written down of the job at its start, and what a job that
    runs as root may have changed.
    """

    job: str
    unit: str
    state: str
    active_state: str
    sub_state: str
    freezer_state: str | None
    frozen_by: str | None
    description: str
    manager: str
    cgroup: str | None
    tasks: int | None
    cpu_seconds: float | None
    memory_bytes: int | None
    memo: Memo | None

    def to_json(self) -> dict[str, Any]:
        """Return it as one flat object."""
        fields = values_of(self)
        del fields["memo"]
        return fields | _remembered(self.memo)


def _remembered(memo: Memo | None) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(
        ("command", "box", "owner", "owner_uid", "supervisor", "started_at")
    )
    if memo is None:
        return fields
    supervisor = memo.supervisor
    return {
        "command": list(memo.command),
        "box": memo.box,
        "owner": user_name(memo.owner),
        "owner_uid": memo.owner,
        "supervisor": supervisor and {**values_of(supervisor), "alive": supervisor.alive()},
        "started_at": memo.started_at,
    }


@record
class Reached:
    """A manager, the connection to it, and its journal."""

    endpoint: Endpoint
    manager: Manager
    journal: Journal


async def _reach(endpoint: Endpoint) -> Reached:
    async def dial() -> Bus:
        endpoint.check()
        address = f"unix:path={endpoint.bus_socket}"
        return await (Peer if endpoint.direct else Bus).connect(address, timeout=_CALL_SECONDS)

    if endpoint.kind == "nested":
        from sdbox.nesting import inner

        manager: Manager = await inner.connect(endpoint.bus_socket)
    else:
        manager = await Manager.connect(dial, timeout=_CALL_SECONDS)
    # The journal of another PID namespace knows no process of this one: systemd speaks for it.
    sender = None if endpoint.pid_namespace is None else pid_of(endpoint.pid_namespace)
    return Reached(endpoint=endpoint, manager=manager, journal=Journal(endpoint.journal, sender))


class Jobs:
    """The jobs of one manager. An async context manager; `launcher.jobs` is one, too.

    `manager` is `auto`, `system`, `user` or `embedded`. None is booted for it: where there is
    none, there are no jobs. A job is named by a JobStatus, or by its id or unit. The verbs raise
    NoSuchJob, ManagerRefused, ManagerUnavailable and TimedOut.
    """

    def __init__(self, *, manager: Choice = "auto") -> None:
        self._choice: Choice = manager
        self._reached: Reached | None = None

    @classmethod
    def over(cls, endpoint: Endpoint, manager: Manager, journal: Journal) -> Jobs:
        """The jobs of a manager to which there is a connection, which stays the caller's."""
        jobs = cls()
        jobs._reached = Reached(endpoint=endpoint, manager=manager, journal=journal)
        return jobs

    async def __aenter__(self) -> Self:
        endpoint = find(self._choice)
        if endpoint is not None:
            try:
                self._reached = await _reach(endpoint)
            except BaseException:
                endpoint.close()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._reached is not None:
            await self._reached.journal.close()
            await self._reached.manager.close()
            self._reached.endpoint.close()

    @property
    def systemd_version(self) -> int | None:
        """The manager's version, such as 257; None where there is no manager."""
        return None if self._reached is None else self._reached.manager.version

    async def find(self, *names: str) -> tuple[JobStatus, ...]:
        """Return the jobs that one of these ids, unit names or shell patterns names; without any,
        all. One call of systemd and one walk of the cgroups, however many there are.
        """
        if self._reached is None:
            return ()
        units = await self._reached.manager.list_units(*_PATTERNS)
        wanted = [unit for unit in units if not names or any(named(unit.name, n) for n in names)]
        root, kind = self._reached.endpoint.cgroup_root, self._reached.endpoint.kind
        places = {place.unit: place for place in groups.places(root)} if wanted else {}
        return tuple(
            _status(unit, groups.look(root, places.get(unit.name)), kind)
            for unit in sorted(wanted, key=lambda unit: unit.name)
        )

    async def freeze(self, job: JobStatus | str, *, timeout: float = verbs.FREEZE_SECONDS) -> None:
        """Freeze a job; return when all of it is. Twice is once."""
        await verbs.freeze(await self._target(job), timeout=timeout)

    async def thaw(self, job: JobStatus | str, *, timeout: float = verbs.FREEZE_SECONDS) -> None:
        """Undo freeze(). Twice is once."""
        await verbs.thaw(await self._target(job), timeout=timeout)

    async def kill(
        self, job: JobStatus | str, *, signal: signal.Signals | int | None = None
    ) -> None:
        """Kill a job, so that nothing of it gets away; or send a signal to all its processes."""
        target = await self._target(job)
        await (verbs.kill(target) if signal is None else verbs.send(target, signal))

    async def stop(self, job: JobStatus | str) -> None:
        """Ask a job to end, as its KillSignal= and TimeoutStopSec= say, then kill it."""
        await verbs.stop(await self._target(job))

    async def wait(self, job: JobStatus | str) -> dict[str, Any] | None:
        """Wait for a job's end; return its report, None where its supervisor left none."""
        return await verbs.wait(await self._target(job))

    async def usage(self, job: JobStatus | str) -> Figures:
        """Return what a job uses. Memory is measured where the kernel does not count it."""
        return verbs.figures(await self._target(job))

    async def set_property(self, job: JobStatus | str, change: Box) -> None:
        """Change the box of a job, for as long as it runs. Raises Unenforceable, too."""
        await verbs.set_property(await self._target(job), change)

    async def _one(self, job: JobStatus | str) -> JobStatus:
        if isinstance(job, JobStatus):
            return job
        found = [one for one in await self.find() if job in (one.job, one.unit)]
        if len(found) != 1:
            raise no_such_job(job)
        return found[0]

    async def _target(self, job: JobStatus | str) -> Target:
        status = await self._one(job)
        reached = self._reached
        if reached is None:
            raise no_such_job(status.job)
        root = reached.endpoint.cgroup_root
        return Target(
            manager=reached.manager,
            kind=reached.endpoint.kind,
            unit=status.unit,
            root=root,
            # A unit that has no cgroup any more gets one that is not there.
            directory=f"{root}{status.cgroup or f'/{status.unit}'}",
            journal=reached.journal,
        )


def named(unit: str, name: str) -> bool:
    """Whether a unit is meant by an id, a unit's name or a shell pattern."""
    return fnmatchcase(job_of(unit), name) or fnmatchcase(unit, name)


def _status(unit: UnitStatus, group: Group, manager: str) -> JobStatus:
    return JobStatus(
        job=job_of(unit.name),
        unit=unit.name,
        state=_state(unit.active_state, group),
        active_state=unit.active_state,
        sub_state=unit.sub_state,
        freezer_state=group.freezer_state,
        frozen_by=group.frozen_by,
        description=unit.description,
        manager=manager,
        cgroup=group.path,
        tasks=group.tasks,
        cpu_seconds=group.cpu_seconds,
        memory_bytes=group.memory_bytes,
        memo=group.memo,
    )


def _state(active_state: str, group: Group) -> str:
    if active_state == "active":
        return group.freezer_state or "running"
    return "stopping" if active_state == "deactivating" else active_state
