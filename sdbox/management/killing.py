"""The end of a job by force: through its manager, and past that for what it does not reach."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import SdboxError

if TYPE_CHECKING:
    from sdbox.cgroup import Cgroup
    from sdbox.manager import Manager

# By then all is dead, as a rule.
_REACH_SECONDS = 0.5


async def destroy(manager: Manager, unit: str, group: Cgroup, *, timeout: float) -> None:
    """As Manager.destroy(), for all that is in a cgroup.

    systemd 257 has the kernel kill it, which leaves out a process whose first thread has ended.
    """
    reaching = loop.running().create_task(_reach(group, timeout))
    try:
        await manager.destroy(unit, timeout=timeout)
    finally:
        reaching.cancel()


async def _reach(group: Cgroup, timeout: float) -> None:
    await loop.sleep(_REACH_SECONDS)
    with contextlib.suppress(SdboxError):
        await group.end(timeout)
