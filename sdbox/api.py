"""The synchronous way in, for programs that have no event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Unpack

from sdbox.launcher import Launcher

if TYPE_CHECKING:
    from sdbox.launch.planning import Command
    from sdbox.launcher import Options
    from sdbox.result import Result
    from sdbox.systemd.endpoint import Choice


def run(command: Command, *, manager: Choice = "auto", **options: Unpack[Options]) -> Result:
    """Run a command in a box, and return the account of it. As `Launcher.run`.

    KeyboardInterrupt kills the job.
    """

    async def launch() -> Result:
        async with Launcher(manager=manager) as launcher:
            return await launcher.run(command, **options)

    return asyncio.run(launch())
