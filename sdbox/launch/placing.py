"""What placing an init takes, whatever the type of its unit: start the unit, verify, undo."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.cgroup import Cgroup
from sdbox.errors import ManagerRefused, SdboxError
from sdbox.record import record

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine
    from typing import Any

    from sdbox.journal.writer import Journal
    from sdbox.launch.helper import Helper
    from sdbox.manager import Manager
    from sdbox.plan import Plan
    from sdbox.systemd.endpoint import Endpoint

# What it takes for a call to be sent, and to be with systemd: it works on it for much longer.
_SENDING_SECONDS = 0.001

UPDATE = "Update systemd: its issue 36781 is mended in 256.13, 257.5 and 258"


@record
class Connection:
    """What a launcher holds: the manager, how it is reached, the helper, and the journal."""

    endpoint: Endpoint
    manager: Manager
    helper: Helper
    journal: Journal

    async def close(self) -> None:
        """Let go of the manager, and end the helper and with it what boxes are left."""
        await self.manager.close()
        # Before the helper, in whose name it may be written to.
        await self.journal.close()
        await self.helper.close()


@record
class Placed:
    """An init in its unit. `inits` are the processes there that are sdbox's own, by their PID.

    The first of them is init itself, for which `init` stands, a process descriptor. `unknown` is
    another one where the helper does not know it, since systemd has started it.
    """

    inits: tuple[int, ...]
    init: int
    cgroup: Cgroup
    unknown: int | None = None

    def close(self) -> None:
        """Let go of it."""
        os.close(self.init)
        self.cgroup.close()


async def start(connection: Connection, plan: Plan, request: Coroutine[Any, Any, None]) -> None:
    """Start a unit by `request`; where that fails or is cancelled, make sure that there is none.

    A unit of that name that was there before, and so refused, is not touched.
    """
    task = loop.running().create_task(request)
    try:
        await _use_the_wait(plan)
        await loop.shield(task)
    except ManagerRefused:
        raise
    except BaseException:
        await loop.shield(_undo(connection, plan, task))
        raise


async def _use_the_wait(plan: Plan) -> None:
    """Import what is needed next, while systemd is at work."""
    if "sdbox.job" not in sys.modules:
        # The call goes through processes that may be waiting for this very CPU.
        await loop.sleep(_SENDING_SECONDS)
        import sdbox.job

    if plan.watched:
        import sdbox.watch.limits  # noqa: F401


async def _undo(connection: Connection, plan: Plan, task: asyncio.Task[None]) -> None:
    """Wait for the answer, since only that tells whose the unit is."""
    try:
        await task
    except ManagerRefused:
        return
    except SdboxError:
        pass
    await destroy(connection, plan)


async def verified(connection: Connection, plan: Plan, init_pid: int) -> Cgroup | None:
    """Return the job's cgroup, if init is in it and systemd knows of its unit."""
    cgroup = _open_cgroup(connection.endpoint, plan)
    if cgroup is None:
        return None
    good = False
    try:
        good = init_pid in cgroup.processes() and await is_active(connection, plan)
    finally:
        if not good:
            cgroup.close()
    return cgroup if good else None


def _open_cgroup(endpoint: Endpoint, plan: Plan) -> Cgroup | None:
    with contextlib.suppress(SdboxError):
        return Cgroup.open(endpoint.cgroup_root + plan.tree)
    return None


async def is_active(connection: Connection, plan: Plan) -> bool:
    """Whether systemd knows of the unit, and it has not ended.

    systemd keeps a link for each unit from its start to its end, as journald knows them. Only if
    there is none is it asked: that takes as long as a twentieth of a launch.
    """
    if connection.endpoint.has_link(plan.unit):
        return True
    state = await connection.manager.unit_property(plan.unit, "Unit", "ActiveState")
    return bool(state == "active")


async def destroy(connection: Connection, plan: Plan) -> None:
    """Leave nothing of a unit of ours, in a launch that fails anyway."""
    with contextlib.suppress(SdboxError):
        await connection.manager.destroy(plan.whole)
