"""Launchers that race for four CPUs, each of which only one job may ever have. In earnest.

What counts is not what the launchers say but which CPUs the kernel lets their jobs have.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sdbox import topology
from tests.conftest import SECONDS, SESSION
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

CPUS = frozenset(range(4))
LAUNCHERS = 8
# Of the 200 rounds so many in each test, which has a bound on its time.
ROUNDS = 20

# At each line starts a job with a CPU of its own, says which the kernel lets it have, and ends it
# at the next.
LAUNCHER = """
import asyncio, sys
sys.path[:] = {path!r}
from sdbox import Box, Launcher
from sdbox.errors import CPUsTaken

async def main():
    async with Launcher() as launcher:
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                job = await launcher.start(
                    ["sleep", "600"], box=Box(AssignedCPUs=1), id=line.strip(), unit_type={type!r}
                )
            except CPUsTaken:
                print("none", flush=True)
                continue
            place = "/sys/fs/cgroup" + job.plan.cgroup
            with open(place + "/cpuset.cpus.effective") as file:
                print(file.read().strip(), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            await job.kill()
            await job.wait()
            print("free", flush=True)

asyncio.run(main())
"""


@pytest.fixture(autouse=True, scope="module")
def _cpusets() -> None:
    """Have the kernel keep cpusets for as long as it runs.

    It changes its own code with the first of them and the last, which QEMU 7.2 has been seen to
    run while it is being changed, on another of four processors: a panic after some forty rounds.
    """
    words = ("set-property", "--runtime", "system.slice", "AllowedCPUs=0-3")
    subprocess.run(["systemctl", *words], check=True, timeout=SECONDS)


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def launchers(unit_type: str) -> Iterator[list[subprocess.Popen[str]]]:
    program = LAUNCHER.format(path=sys.path, type=unit_type)
    command = [sys.executable, "-Ic", program]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        for _ in range(LAUNCHERS)
    ]
    yield started
    for process in started:
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], SECONDS)[0]
    return process.stdout.readline().strip()


def test_this_machine_has_four() -> None:
    assert os.sched_getaffinity(0) == CPUS == topology.read().keys()


@pytest.mark.parametrize("part", range(200 // 2 // ROUNDS))
def test_never_the_same_twice(launchers: list[subprocess.Popen[str]], part: int) -> None:
    for turn in range(ROUNDS):
        for number, process in enumerate(launchers):
            say(process, f"{SESSION}-race-{part}-{turn}-{number}")
        answers = [heard(process) for process in launchers]
        given = [answer for answer in answers if answer != "none"]
        # Nor is anybody refused what is there.
        assert sorted(given) == ["0", "1", "2", "3"]
        lucky = [p for p, answer in zip(launchers, answers, strict=True) if answer != "none"]
        for process in lucky:
            say(process, "")
        assert [heard(process) for process in lucky] == ["free"] * 4


def test_the_cpu_of_a_killed_supervisor_is_free(sdbox: Sdbox) -> None:
    show = "cat /sys/fs/cgroup$(sed 's/^0:://' /proc/self/cgroup)/cpuset.cpus.effective"
    jobs = [sdbox.start_sh(f"{show}; read line", "--cpus=1") for _ in CPUS]
    cpus = [int(job.line()) for job in jobs]
    assert sorted(cpus) == sorted(CPUS)
    assert sdbox.run("--cpus=1", "--", "true").status == 125
    for job, cpu in zip(jobs, cpus, strict=True):
        job.signal(signal.SIGKILL)
        wait_until(lambda cpu=cpu: holder_of(sdbox, cpu) is None)  # type: ignore[misc]
        assert sdbox.sh(show, "--cpus=1").out == f"{cpu}\n"
        again = sdbox.start_sh(f"{show}; read line", "--cpus=1")
        assert int(again.line()) == cpu


def holder_of(sdbox: Sdbox, cpu: int) -> str | None:
    listed = {entry["cpu"]: entry["job"] for entry in json.loads(sdbox.call("cpus", "--json").out)}
    job: str | None = listed[cpu]
    return job
