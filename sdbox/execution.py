"""The second half of one launch: a blocked init gets its unit, is verified in it, and released."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from sdbox.bus import within
from sdbox.cgroup import Cgroup
from sdbox.errors import LaunchFailed, ManagerRefused, SdboxError, Unenforceable
from sdbox.manager import Manager
from sdbox.plan import check_version, properties_for
from sdbox.record import record
from sdbox.report import Report

if TYPE_CHECKING:
    from sdbox.helper import Helper
    from sdbox.host import Endpoint
    from sdbox.job import Job
    from sdbox.launch import Launch
    from sdbox.plan import Plan

# systemd issue 36781: a scope can be found dead right after its start, its processes living.
_PLACING_TRIES = 3
# A manager under load takes its time; what hangs for longer is broken.
_CALL_SECONDS = 60.0


@record
class Connection:
    """What a launcher holds: the manager, how it is reached, and the helper."""

    endpoint: Endpoint
    manager: Manager
    helper: Helper

    async def close(self) -> None:
        """Let go of the manager, and end the helper and with it what boxes are left."""
        await self.manager.close()
        await self.helper.close()


async def connect(endpoint: Endpoint, helper: Helper, *, only: str | None = None) -> Connection:
    """Reach the manager through the helper. `only` is the one unit that will be started.

    Raises ManagerUnavailable and TimedOut.
    """
    sock = await helper.connect(endpoint.bus_socket)
    manager = await Manager.connect_socket(sock, timeout=_CALL_SECONDS, only=only)
    return Connection(endpoint=endpoint, manager=manager, helper=helper)


async def execute(connection: Connection, launch: Launch) -> Job:
    """Carry out a launch that has begun; return when the payload runs. On failure nothing stays.

    Raises LaunchFailed, Unenforceable, ManagerUnavailable, ManagerRefused and TimedOut.
    """
    report = Report(launch.report)
    try:
        check_version(launch.plan, connection.manager.version)
        init_pid, cgroup = await _place(connection, launch)
        try:
            return await _release(connection, launch, report, init_pid, cgroup)
        except BaseException:
            cgroup.close()
            report.close()
            await asyncio.shield(_destroy(connection, launch.plan))
            raise
    except BaseException:
        report.give_up()
        connection.helper.forget(launch.key)
        raise


async def _place(connection: Connection, launch: Launch) -> tuple[int, Cgroup]:
    """Put init into its unit. Return its PID, as this process sees it, and the unit's cgroup."""
    inner_pid, pidfd = await connection.helper.launched(launch.key)
    plan = launch.plan
    try:
        init_pid = _pid(pidfd)
        for _ in range(_PLACING_TRIES):
            await _start_scope(connection, plan, inner_pid, pidfd)
            cgroup = await _verified(connection, plan, init_pid)
            if cgroup is not None:
                return init_pid, cgroup
            await _destroy(connection, plan)
    finally:
        os.close(pidfd)
    raise LaunchFailed(
        f"{plan.unit}: systemd started it without the job in it",
        hint="Update systemd: its issue 36781 is mended in 256.13, 257.5 and 258",
    )


async def _start_scope(connection: Connection, plan: Plan, inner_pid: int, pidfd: int) -> None:
    """Start the unit; where that fails or is cancelled, make sure that there is none.

    A unit of that name that was there before, and so refused, is not touched.
    """
    start = asyncio.ensure_future(
        connection.manager.start_scope(
            plan.unit,
            properties_for(plan, connection.manager.version),
            pids=[inner_pid],
            pidfds=[pidfd],
        )
    )
    try:
        await _use_the_wait(plan)
        await asyncio.shield(start)
    except ManagerRefused:
        raise
    except BaseException:
        await asyncio.shield(_undo_start(connection, plan, start))
        raise


async def _use_the_wait(plan: Plan) -> None:
    """Import what is needed next, while systemd is at work."""
    # A turn for the call to be sent.
    await asyncio.sleep(0)
    import sdbox.job

    if plan.watched:
        import sdbox.watch  # noqa: F401


async def _undo_start(connection: Connection, plan: Plan, start: asyncio.Future[None]) -> None:
    """Wait for the answer, since only that tells whose the unit is."""
    try:
        await start
    except ManagerRefused:
        return
    except SdboxError:
        pass
    await _destroy(connection, plan)


async def _verified(connection: Connection, plan: Plan, init_pid: int) -> Cgroup | None:
    """Return the unit's cgroup, if init is in it and systemd knows of it."""
    cgroup = _open_cgroup(connection.endpoint, plan)
    if cgroup is None:
        return None
    if init_pid in cgroup.processes() and await _is_active(connection, plan):
        return cgroup
    cgroup.close()
    return None


async def _is_active(connection: Connection, plan: Plan) -> bool:
    state = await connection.manager.unit_property(plan.unit, "Unit", "ActiveState")
    return bool(state == "active")


async def _release(
    connection: Connection,
    launch: Launch,
    report: Report,
    init_pid: int,
    cgroup: Cgroup,
) -> Job:
    _read_back(launch.plan, cgroup)
    connection.helper.placed(launch.key, cgroup.fd)
    report.release(cgroup.fd)
    # A program on a file system that does not answer is one that execve(2) waits for.
    async with within(_CALL_SECONDS, f"starting the payload of {launch.plan.unit}"):
        payload = await report.started
    from sdbox.job import Job

    return Job(
        launch=launch,
        init_pid=init_pid,
        payload=payload,
        report=report,
        cgroup=cgroup,
        manager=connection.manager,
        helper=connection.helper,
    )


async def _destroy(connection: Connection, plan: Plan) -> None:
    """Leave nothing of a unit of ours, in a launch that fails anyway."""
    with contextlib.suppress(SdboxError):
        await connection.manager.destroy(plan.unit)


def _read_back(plan: Plan, cgroup: Cgroup) -> None:
    """Make sure that the kernel has what was asked for: systemd says `done` without it, too."""
    for file in plan.files:
        contents = cgroup.read(file.name)
        if contents != file.contents:
            raise Unenforceable(
                f"{plan.unit}: {file.name} is {contents}, where {file.contents} was asked for",
                hint="See `sdbox doctor` for the controllers that units have here",
            )


def _open_cgroup(endpoint: Endpoint, plan: Plan) -> Cgroup | None:
    with contextlib.suppress(SdboxError):
        return Cgroup.open(endpoint.cgroup_root + plan.cgroup)
    return None


def _pid(pidfd: int) -> int:
    """Return the PID that a process descriptor stands for in this process's namespace."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise LaunchFailed("/proc shows no PID for init", hint="Mount /proc of this PID namespace")
