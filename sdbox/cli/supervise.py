"""The second half of `sdbox run`: all that needs an event loop and D-Bus."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from sdbox.cli import streams
from sdbox.launcher import Launcher

if TYPE_CHECKING:
    from sdbox.cli.signals import Signals
    from sdbox.helper import Helper
    from sdbox.host import Endpoint
    from sdbox.launch import Launch
    from sdbox.result import Result


def supervise(launch: Launch, *, endpoint: Endpoint, helper: Helper, signals: Signals) -> Result:
    """See a launch through to the job's end."""
    return asyncio.run(_supervise(launch, endpoint, helper, signals))


async def _supervise(
    launch: Launch, endpoint: Endpoint, helper: Helper, signals: Signals
) -> Result:
    async with Launcher(endpoint=endpoint, helper=helper) as launcher:
        job = await launcher.execute(launch)
        streams.let_go()
        gc.enable()
        loop = asyncio.get_running_loop()
        loop.add_reader(signals.fd, signals.forward, job.send_signal)
        result = await job.wait()
        loop.remove_reader(signals.fd)
        return result
