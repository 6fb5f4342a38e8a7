"""The second half of one launch: a blocked init gets its unit, is verified in it, and released."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import LaunchFailed, ManagerRefused, SdboxError
from sdbox.kernel.pidfd import has_ended
from sdbox.launch import placing
from sdbox.launch.report import Report
from sdbox.management.memo import remember
from sdbox.plan import UNIT_TYPES, check_version, slices
from sdbox.systemd.calls import UNIT_EXISTS

if TYPE_CHECKING:
    from sdbox.cgroup import Cgroup
    from sdbox.job import Job
    from sdbox.journal.writer import Journal
    from sdbox.launch.beginning import Launch
    from sdbox.launch.placing import Connection, Placed
    from sdbox.nesting.door import Door
    from sdbox.plan import Plan
    from sdbox.systemd.endpoint import Endpoint

# What hangs for longer is broken.
_CALL_SECONDS = 60.0


async def execute(connection: Connection, launch: Launch) -> Job:
    """Carry out a launch that has begun; return when the payload runs. On failure nothing stays.

    Raises LaunchFailed, Unenforceable, ManagerUnavailable, ManagerRefused and TimedOut.
    """
    report = Report(launch.report, service=launch.plan.unit_type == "service")
    try:
        check_version(launch.plan, connection.manager.version)
        _refuse_twin(connection.endpoint, launch.plan)
        placed = await _place(connection, launch, report)
        try:
            return await _release(connection, launch, report, placed)
        except BaseException as error:
            _tell_failure(connection.journal, launch.plan, error)
            placed.close()
            report.close()
            await loop.shield(placing.destroy(connection, launch.plan))
            raise
    except BaseException as error:
        report.give_up()
        connection.helper.forget(launch.key)
        for stream in launch.to_journal:
            stream.close()
        if isinstance(error, SdboxError):
            # It takes its inits along: then that is what went wrong.
            connection.helper.check()
        raise


def _refuse_twin(endpoint: Endpoint, plan: Plan) -> None:
    """Refuse an id that a job has in a unit of the other type: systemd does so for one of the same.

    Raises ManagerRefused.
    """
    if endpoint.kind == "none":
        return
    for unit_type in UNIT_TYPES:
        other = f"{plan.unit.removesuffix(plan.unit_type)}{unit_type}"
        if other != plan.unit and _is_there(
            endpoint.cgroup_root + os.path.dirname(plan.tree), other, plan.job
        ):
            raise ManagerRefused(
                f"{plan.job}: there is a job of that id, {other}",
                name=UNIT_EXISTS,
                hint="Choose another id",
            )


def _is_there(above: str, unit: str, job: str) -> bool:
    """Whether the cgroup at a path has a unit in it, or in the slice that its job has in there."""
    own = slices.slice_below(os.path.basename(above), job)
    return os.path.isdir(f"{above}/{unit}") or os.path.isdir(f"{above}/{own}/{unit}")


async def _place(connection: Connection, launch: Launch, report: Report) -> Placed:
    """Put init into its unit."""
    if connection.endpoint.kind == "none":
        from sdbox.launch import unmanaged

        return await unmanaged.place(connection, launch)
    if launch.plan.unit_type == "scope":
        from sdbox.launch import scope

        return await scope.place(connection, launch)
    from sdbox.launch import service

    return await service.place(connection, launch, report)


async def _release(connection: Connection, launch: Launch, report: Report, placed: Placed) -> Job:
    cgroup = placed.cgroup
    _read_back(launch.plan, cgroup)
    if launch.plan.cpus:
        from sdbox.cpus.holders import settle

        settle(launch.plan.job, launch.plan.cpus, cgroup)
    if connection.endpoint.kind != "none":
        connection.helper.placed(launch.key, cgroup.fd, placed.unknown)
    # Before there is a payload that others find, and that has lines of its own in the journal.
    remember(cgroup.fd, launch.plan)
    _tell_start(connection.journal, launch.plan)
    if launch.to_journal:
        await connection.journal.received()
    report.release(cgroup.fd)
    # A program on a file system that does not answer is one that execve(2) waits for.
    async with loop.within(_CALL_SECONDS, f"starting the payload of {launch.plan.unit}"):
        payload = await report.started
        await _see_it_known(connection, launch.plan, payload)
    from sdbox.job import Job

    return Job(
        launch=launch,
        placed=placed,
        payload=payload,
        report=report,
        manager=connection.manager,
        helper=connection.helper,
        journal=connection.journal,
        door=_door(connection, launch.plan, placed, report) if launch.plan.own_slice else None,
    )


def _door(connection: Connection, plan: Plan, placed: Placed, report: Report) -> Door:
    """Open a nestable box's way out of it, which leads to here."""
    from sdbox.nesting.door import Door

    listener, report.listener = report.listener, None
    if listener is None:
        raise LaunchFailed(f"{plan.unit}: its init has not told where it listens")
    return Door(
        listener,
        plan=plan,
        endpoint=connection.endpoint,
        manager=connection.manager,
        tree=placed.cgroup,
        inits=placed.inits,
    )


async def _see_it_known(connection: Connection, plan: Plan, payload: int) -> None:
    """See that systemd has not given the unit up since it was asked, while the payload runs.

    Raises LaunchFailed.
    """
    if not await placing.is_active(connection, plan) and not has_ended(payload):
        raise LaunchFailed(
            f"{plan.unit}: systemd takes it for ended, with the job in it", hint=placing.UPDATE
        )


def _tell_start(journal: Journal, plan: Plan) -> None:
    # Imported by now, with the job's own module, while systemd was at work.
    from sdbox.journal import events

    journal.send(events.started(plan))


def _tell_failure(journal: Journal, plan: Plan, error: BaseException) -> None:
    from sdbox import verdict
    from sdbox.journal import events

    message = str(error) or "The launch was given up."
    journal.send(events.finished(verdict.launch_failed(plan, time.time(), message)))


def _read_back(plan: Plan, cgroup: Cgroup) -> None:
    """Make sure that the kernel has what was asked for. Raises Unenforceable."""
    if plan.files:
        from sdbox.systemd import readback

        readback.check(plan.unit, cgroup, plan.files, all_cpus=plan.cpus is not None)
    if plan.programs:
        from sdbox.kernel import bpf

        with cgroup.below(plan.cgroup.removeprefix(plan.tree)) as leaf:
            bpf.check(leaf.fd, plan.unit, plan.programs)
