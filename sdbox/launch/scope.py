"""A scope for a job: systemd puts the blocked init, which the helper has forked, into it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdbox.errors import LaunchFailed
from sdbox.kernel.pidfd import pid_of
from sdbox.launch import placing
from sdbox.launch.placing import Placed
from sdbox.plan import properties_for

if TYPE_CHECKING:
    from sdbox.launch.beginning import Launch
    from sdbox.launch.placing import Connection
    from sdbox.plan import Plan

# systemd issue 36781: a scope can be found dead right after its start, its processes living.
_PLACING_TRIES = 3


async def place(connection: Connection, launch: Launch) -> Placed:
    """Put init into its unit, and make sure that it is there."""
    inner_pid, pidfd = await connection.helper.launched(launch.key)
    plan = launch.plan
    try:
        init_pid = pid_of(pidfd)
        for _ in range(_PLACING_TRIES):
            request = _request(connection, plan, inner_pid, pidfd)
            await placing.start(connection, plan, request)
            cgroup = await placing.verified(connection, plan, init_pid)
            if cgroup is not None:
                return Placed(inits=(init_pid,), init=os.dup(pidfd), cgroup=cgroup)
            await placing.destroy(connection, plan)
    finally:
        os.close(pidfd)
    raise LaunchFailed(
        f"{plan.unit}: systemd started it without the job in it",
        hint=placing.UPDATE,
    )


async def _request(connection: Connection, plan: Plan, inner_pid: int, pidfd: int) -> None:
    manager = connection.manager
    properties = properties_for(plan, manager.version)
    await manager.start_scope(
        plan.unit, properties, pids=[inner_pid], pidfds=[pidfd], own_slice=plan.own_slice
    )
