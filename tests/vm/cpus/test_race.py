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
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.cpus import topology
from tests.conftest import MARK, SECONDS
from tests.ids import SESSION
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Sdbox

CPUS = frozenset(range(4))
LAUNCHERS = 8
# In each test, which has a bound on its time.
ROUNDS, ROUNDS_OF_COMMANDS = 20, 5
# What the launchers of a test start: 200 rounds in all.
KINDS = [*(["scope"] * 4), *(["service"] * 4), *(["mixed"] * 2)]
SHOW = "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status"
OF_CGROUP = "cat /sys/fs/cgroup$(sed 's/^0:://' /proc/self/cgroup)/cpuset.cpus.effective"

# At each line starts a job that has a CPU of its own, and says on which the kernel lets it run. At
# the next one ends it, and says by which signal that was.
LAUNCHER = """
import asyncio, os, sys
sys.path[:] = {path!r}
from sdbox import Box, Launcher
from sdbox.errors import CPUsTaken

async def start(launcher, job, stdout):
    try:
        return await launcher.start(
            ["sh", "-c", {show!r} + "; exec sleep 600"],
            box=Box(AssignedCPUs=1), id=job, unit_type={type!r}, stdout=stdout
        )
    except CPUsTaken:
        return None
    finally:
        os.close(stdout)

async def main():
    async with Launcher() as launcher:
        while line := await asyncio.to_thread(sys.stdin.readline):
            ours, theirs = os.pipe()
            job = await start(launcher, line.strip(), theirs)
            said = (await asyncio.to_thread(os.read, ours, 100)).decode().strip()
            os.close(ours)
            if job is None:
                print("none", flush=True)
                continue
            with open("/sys/fs/cgroup" + job.plan.cgroup + "/cpuset.cpus.effective") as file:
                kept = file.read().strip()
            print(said if said == kept else said + " of " + kept, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            await job.kill()
            print((await job.wait()).signal, flush=True)

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


@pytest.fixture(params=[pytest.param(kind, id=f"{kind}-{n}") for n, kind in enumerate(KINDS)])
def launchers(request: pytest.FixtureRequest) -> Iterator[list[subprocess.Popen[str]]]:
    types = ("scope", "service") if request.param == "mixed" else (request.param,)
    started = [_launcher(unit_type) for unit_type in LAUNCHERS // len(types) * types]
    yield started
    for process in started:
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0


def _launcher(unit_type: str) -> subprocess.Popen[str]:
    program = LAUNCHER.format(path=sys.path, type=unit_type, show=SHOW)
    command = [sys.executable, "-Ic", program]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.fixture(scope="module")
def rounds(record_testsuite_property: Callable[[str, object], None]) -> Iterator[Counter[str]]:
    """How many rounds of what there were, for the results."""
    counted: Counter[str] = Counter()
    yield counted
    for what, number in counted.items():
        record_testsuite_property(f"rounds of {what}", number)


@pytest.fixture
def tell(rounds: Counter[str], capsys: pytest.CaptureFixture[str]) -> Callable[[str, int], None]:
    """Have people see how many there were, too."""

    def told(what: str, number: int) -> None:
        rounds[what] += number
        with capsys.disabled():
            sys.stdout.write(f" {rounds[what]} rounds of {what} ")

    return told


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], SECONDS)[0]
    return process.stdout.readline().strip()


def test_this_machine_has_four() -> None:
    assert os.sched_getaffinity(0) == CPUS == topology.read().keys()


def test_never_the_same_twice(
    launchers: list[subprocess.Popen[str]],
    request: pytest.FixtureRequest,
    tell: Callable[[str, int], None],
) -> None:
    """Programs that use the API, the same ones in all rounds of a test."""
    race = f"{SESSION}-race-{request.node.callspec.id}"
    for turn in range(ROUNDS):
        for number, process in enumerate(launchers):
            say(process, f"{race}-{turn}-{number}")
        answers = [heard(process) for process in launchers]
        # Nor is anybody refused what is there.
        assert sorted(answers) == ["0", "1", "2", "3", *["none"] * 4]
        lucky = [p for p, answer in zip(launchers, answers, strict=True) if answer != "none"]
        for process in lucky:
            say(process, "")
        # Until then they ran, all four at a time.
        assert [heard(process) for process in lucky] == [str(int(signal.SIGKILL))] * 4
    tell("programs", ROUNDS)


def test_commands_never_get_the_same_twice(sdbox: Sdbox, tell: Callable[[str, int], None]) -> None:
    """Whole commands: all of `sdbox run`, from its first instruction on."""
    for _ in range(ROUNDS_OF_COMMANDS):
        racing = [_command(sdbox) for _ in range(LAUNCHERS)]
        for process in racing:
            say(process, "go")
        answers = [heard(process) for process in racing]
        assert sorted(answers) == [*[""] * 4, "0", "1", "2", "3"]
        for process, answer in zip(racing, answers, strict=True):
            _, err = process.communicate("end\n" if answer else "", timeout=SECONDS)
            # Until they were told so, the jobs ran, all four at a time.
            assert process.returncode == (7 if answer else 125), err
            assert ("can't be had" in err) == (not answer)
    tell("commands", ROUNDS_OF_COMMANDS)


def _command(sdbox: Sdbox) -> subprocess.Popen[str]:
    """`sdbox run`, as soon as it is told. Its job says on which CPU it runs, and ends when told."""
    job = sdbox.new_id()
    words = [*sdbox.run_command, f"--id={job}", "--cpus=1", "--"]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        ["sh", "-c", 'read go; exec "$@"', "sh", *words, "sh", "-c", f"{SHOW}; read end; exit 7"],
        env={**os.environ, MARK: job},
        text=True,
        bufsize=1,
        **pipes,
    )


def test_the_cpu_of_a_killed_supervisor_is_free(sdbox: Sdbox) -> None:
    jobs = [sdbox.start_sh(f"{OF_CGROUP}; read line", "--cpus=1") for _ in CPUS]
    cpus = [int(job.line()) for job in jobs]
    assert sorted(cpus) == sorted(CPUS)
    assert sdbox.run("--cpus=1", "--", "true").status == 125
    for job, cpu in zip(jobs, cpus, strict=True):
        job.signal(signal.SIGKILL)
        wait_until(lambda cpu=cpu: holder_of(sdbox, cpu) is None)  # type: ignore[misc]
        assert sdbox.sh(OF_CGROUP, "--cpus=1").out == f"{cpu}\n"
        again = sdbox.start_sh(f"{OF_CGROUP}; read line", "--cpus=1")
        assert int(again.line()) == cpu


def holder_of(sdbox: Sdbox, cpu: int) -> str | None:
    listed = {entry["cpu"]: entry["job"] for entry in json.loads(sdbox.call("cpus", "--json").out)}
    job: str | None = listed[cpu]
    return job
