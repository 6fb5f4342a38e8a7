"""The second half of `sdbox run`: all that needs an event loop and D-Bus."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from sdbox.cli import streams
from sdbox.cli.signals import stop
from sdbox.cli.talk import complain
from sdbox.launcher import Launcher

if TYPE_CHECKING:
    from sdbox.cli.signals import Signals
    from sdbox.helper import Helper
    from sdbox.host import Endpoint
    from sdbox.launch import Launch
    from sdbox.result import Result


def supervise(
    launch: Launch, *, endpoint: Endpoint, helper: Helper, signals: Signals, stops: bool
) -> Result:
    """See a launch through to the job's end. `stops`: stop with the payload, for a shell's sake.

    Not otherwise: who continues just the payload would leave the job without a supervisor.
    """
    return asyncio.run(_supervise(launch, endpoint, helper, signals, stops=stops))


async def _supervise(
    launch: Launch, endpoint: Endpoint, helper: Helper, signals: Signals, *, stops: bool
) -> Result:
    async with Launcher(endpoint=endpoint, helper=helper, only=launch.plan.unit) as launcher:
        job = await launcher.execute(launch)
        if stops:
            job.on_stopped(stop)
        streams.let_go()
        gc.enable()
        loop = asyncio.get_running_loop()
        loop.add_reader(signals.fd, signals.forward, job.send_signal)
        result = await job.wait()
        loop.remove_reader(signals.fd)
        if job.series is not None and job.series.error is not None:
            complain(f"--record: {job.series.error.strerror}")
        return result
