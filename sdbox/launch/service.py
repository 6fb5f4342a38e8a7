"""A service for a job: systemd starts its init, which takes over what the helper left for it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import LaunchFailed
from sdbox.init import wire
from sdbox.kernel.pidfd import pid_of
from sdbox.launch import placing
from sdbox.launch.helper import PLACE
from sdbox.launch.placing import Placed
from sdbox.plan import properties_for
from sdbox.properties import UnitProperty

if TYPE_CHECKING:
    from sdbox.launch.beginning import Launch
    from sdbox.launch.placing import Connection
    from sdbox.launch.report import Report
    from sdbox.plan import Plan

# Python has to start, on a machine that may be busy.
_BORN_SECONDS = 60.0

# One expression, since a systemd that executes itself anew reads `;` as `\;` (tried: 252).
_PROGRAM = (
    "__import__('sys').path.append({root!r})"
    " or __import__('sdbox.init.service', fromlist=['main']).main()"
)

# What of init's own has to be said, and what it says before it has the payload's streams.
_OWN_PROPERTIES = (
    UnitProperty(name="Type", signature="s", value="exec"),
    # The socket, to which it does not write: a box may have no /dev/null that may be opened.
    UnitProperty(name="StandardOutput", signature="s", value="inherit"),
    UnitProperty(name="StandardError", signature="s", value="journal"),
    UnitProperty(name="SyslogIdentifier", signature="s", value="sdbox"),
)


async def place(connection: Connection, launch: Launch, report: Report) -> Placed:
    """Have systemd start init in its unit, and hear from it. On failure nothing stays."""
    plan = launch.plan
    handed = await connection.helper.handed(launch.key)
    try:
        await placing.start(connection, plan, _request(connection, plan, handed))
    finally:
        os.close(handed)
    try:
        return await _born(connection, plan, report)
    except BaseException:
        await loop.shield(placing.destroy(connection, plan))
        raise


async def _request(connection: Connection, plan: Plan, handed: int) -> None:
    manager = connection.manager
    await manager.start_service(
        plan.unit,
        (*properties_for(plan, manager.version), *_OWN_PROPERTIES),
        command=[sys.executable, "-I", "-S", "-c", _PROGRAM.format(root=PLACE)],
        stdin=handed,
        own_slice=plan.own_slice,
    )


async def _born(connection: Connection, plan: Plan, report: Report) -> Placed:
    async with loop.within(_BORN_SECONDS, f"starting init of {plan.unit}"):
        pidfds = await report.born
    pidfd, *others = pidfds
    try:
        inits = tuple(map(pid_of, pidfds))
        cgroup = await placing.verified(connection, plan, inits[0])
        if cgroup is None:
            raise LaunchFailed(
                f"{plan.unit}: systemd started it, and init is not in it",
                hint=f"See `journalctl -u {plan.unit}`",
            )
    except BaseException:
        os.close(pidfd)
        raise
    finally:
        wire.close(others)
    return Placed(inits=inits, init=os.dup(pidfd), cgroup=cgroup, unknown=pidfd)
