"""A kill takes all of a job, however fast it forks: no lineage gets away by hopping sessions."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

import sdbox as api
from tests.conftest import MARK, processes_with
from tests.pace import seconds, times

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sdbox.job import Job
    from sdbox.manager import Manager
    from sdbox.properties import UnitType
    from tests.conftest import Sdbox

    Killer = Callable[[Job, Sdbox], Awaitable[None]]

# How often each storm is raised: 100 times to prove it, less where the whole suite runs.
TIMES = int(os.environ.get("SDBOX_TEST_STORMS", times(1)))
# A hundred that fork leave little of the processors to who kills them.
SECONDS = seconds(90)
pytestmark = pytest.mark.timeout(seconds(120 + TIMES * 20))

LINEAGES = 50
GENERATIONS = 2
# Each lineage is one process after the other, in sessions of their own, with a short-lived branch
# at each step: PIDs change faster than anybody can read them. It writes a dot when it is well
# under way. Its stdout is held by all of them, so it ends with the last.
STORM = f"""
import os, signal
for number in signal.valid_signals() - {{signal.SIGKILL, signal.SIGSTOP}}:
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)

def fork():
    while True:
        try:
            return os.fork()
        except OSError:
            pass

def live():
    generation = 0
    os.close(starter)
    os.read(start, 1)
    while True:
        generation += 1
        if generation == {GENERATIONS}:
            os.write(1, b".")
        if fork():
            os._exit(0)
        os.setsid()
        if fork() == 0:
            os.setsid()
            os._exit(0)

start, starter = os.pipe()
for _ in range({LINEAGES}):
    if fork() == 0:
        live()
os.close(starter)
while True:
    signal.pause()
"""
# Not reached, unless it gets out of hand: the machine's protection.
BOX = api.Box(TasksMax=2000)
OWN_PIDS = BOX.merge(api.Box(PrivatePIDs=True))


async def by_handle(job: Job, sdbox: Sdbox) -> None:
    """The program that has started it, with `Job.kill`."""
    await job.kill()


async def by_command(job: Job, sdbox: Sdbox) -> None:
    """Anybody else, with `sdbox kill`."""
    done = await asyncio.to_thread(sdbox.call, "kill", job.id, timeout=SECONDS)
    assert (done.status, done.err) == (0, "")


@pytest.fixture(autouse=True)
def _marked(sdbox: Sdbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, sdbox.new_id())


@pytest.mark.parametrize("unit_type", ["scope", "service"])
@pytest.mark.parametrize(
    ("kill", "frozen", "box"),
    [
        (by_handle, False, BOX),
        (by_handle, True, OWN_PIDS),
        (by_command, False, OWN_PIDS),
        (by_command, True, BOX),
    ],
    ids=["handle", "handle-frozen", "command", "command-frozen"],
)
async def test_nobody_gets_away(
    sdbox: Sdbox,
    job_manager: Manager,
    kill: Killer,
    frozen: bool,
    box: api.Box,
    unit_type: UnitType,
) -> None:
    async with api.Launcher() as launcher:
        for _ in range(TIMES):
            reader, writer = os.pipe()
            job = await launcher.start(
                [sys.executable, "-ISc", STORM],
                box=box,
                id=sdbox.new_id(),
                stdout=writer,
                unit_type=unit_type,
            )
            os.close(writer)
            await asyncio.to_thread(wait_until_raised, reader)
            if frozen:
                await job_manager.freeze(job.unit)
            await kill(job, sdbox)
            result = await asyncio.wait_for(job.wait(), SECONDS)
            assert result.signal == signal.SIGKILL
            assert not await job_manager.exists(job.unit)
            see_nobody(reader, sdbox, job)


def wait_until_raised(reader: int) -> None:
    """Wait for the dot of each lineage."""
    dots, end = 0, time.monotonic() + SECONDS
    while dots < LINEAGES:
        assert select.select([reader], [], [], max(0, end - time.monotonic()))[0]
        dots += len(os.read(reader, LINEAGES))


def see_nobody(reader: int, sdbox: Sdbox, job: Job) -> None:
    """At once: nobody holds the pipe, is in the cgroup, or has the job's mark."""
    os.set_blocking(reader, False)
    # BlockingIOError where somebody still holds the other end, of whatever PID at the moment.
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert not os.path.exists(f"{sdbox.endpoint.cgroup_root}{job.plan.cgroup}")
    assert processes_with([f"{MARK}={os.environ[MARK]}\0".encode()]) == []
