"""Whoever dies, and however: nothing of a box stays."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pace import seconds, times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdbox.manager import Manager
    from tests.conftest import Running, Sdbox

SECONDS = seconds(30)
# In which a killed supervisor's box must be gone; how soon it is, tests/bench/ends.py measures.
END_SECONDS = SECONDS

# Out of the payload's session and process group, deaf to what can be ignored, and orphaned. Each
# of the four says when it is there.
SLEEPER = "echo up; exec sleep 600"
FORKS = (
    "trap '' TERM HUP INT; "
    f"setsid sh -c 'setsid sh -c \"{SLEEPER}\" & {SLEEPER}' & "
    f"(setsid sh -c '{SLEEPER}' &) & "
    "sh -c 'echo up; while :; do sleep 600; done' & "
)
UP = ["up"] * 4
FILL_TMP = "touch /tmp/x /var/tmp/x; "
BOX = ("--private-tmp", "--pid-namespace")
AT_ONCE = 5
TIMES = times(50, least=AT_ONCE)
MOMENTS = times(24, least=8)


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """Every test here is for both: the same box, whoever starts the job."""
    kind: str = request.param
    return kind


def start_forks(
    sdbox: Sdbox, first: str = "", then: str = "wait", options: tuple[str, ...] = BOX
) -> Running:
    """Start a job that forks, and wait until all of its processes are there."""
    job = sdbox.start_sh(first + FORKS + then, *options)
    assert [job.line() for _ in UP] == UP
    return job


class Remains:
    """The processes, directories and cgroup of a running job, to be seen gone."""

    def __init__(self, sdbox: Sdbox, job: Running, others: tuple[int, ...] = ()) -> None:
        self.job = job
        self.cgroup = sdbox.cgroup(job.id)
        pids = {*sdbox.members(job.id), *children(job.pid), *others}
        self._pidfds = [os.pidfd_open(pid) for pid in pids]
        self.processes = len(pids)

    def wait(self, end: float) -> None:
        """Wait for the end of all processes until the time `end`."""
        try:
            for pidfd in self._pidfds:
                left = max(0, end - time.monotonic())
                assert select.select([pidfd], [], [], left)[0], "a process is left"
        finally:
            for pidfd in self._pidfds:
                os.close(pidfd)

    def check(self) -> None:
        assert not self.cgroup.exists()
        assert directories(self.job.id) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def directories(job: str) -> list[Path]:
    parents = (Path("/tmp"), Path("/var/tmp"))
    return [path for above in parents for path in above.glob(f"sdbox-private-{job}-*")]


def mounts() -> list[str]:
    """The machine's mounts, those that others make meanwhile aside."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = ("/", "/proc", "/tmp", "/var/tmp")
    return [line for line in lines if line.split()[4] in places or "sdbox-private" in line]


async def kill_and_see_it_gone(
    sdbox: Sdbox, job_manager: Manager, batch: list[Running], kill: Callable[[Running], None]
) -> None:
    remains = [Remains(sdbox, job) for job in batch]
    for one in remains:
        # init, the payload, four of its making; and the helper, which is no member.
        assert one.processes >= 7
    for job in batch:
        kill(job)
    end = time.monotonic() + END_SECONDS
    for one in remains:
        one.wait(end)
        await job_manager.wait_removed(one.job.unit, timeout=max(0.01, end - time.monotonic()))
        one.check()


async def test_a_killed_supervisor_takes_the_box_along(sdbox: Sdbox, job_manager: Manager) -> None:
    """50 times out of 50, nothing is left: no process, unit, mount, directory."""
    before = mounts()
    for _ in range(TIMES // AT_ONCE):
        batch = [start_forks(sdbox, FILL_TMP) for _ in range(AT_ONCE)]
        await kill_and_see_it_gone(sdbox, job_manager, batch, lambda job: job.process.kill())
        for job in batch:
            assert job.end().status == -signal.SIGKILL
    assert mounts() == before


async def test_a_killed_supervisor_without_namespaces(sdbox: Sdbox, job_manager: Manager) -> None:
    """No PID namespace that would end with its first process: cgroup.kill has to do it."""
    job = start_forks(sdbox, options=())
    await kill_and_see_it_gone(sdbox, job_manager, [job], lambda job: job.process.kill())


async def test_a_killed_supervisor_of_a_frozen_box(sdbox: Sdbox, job_manager: Manager) -> None:
    job = start_forks(sdbox, FILL_TMP)
    await job_manager.freeze(job.unit)
    await kill_and_see_it_gone(sdbox, job_manager, [job], lambda job: job.process.kill())


HEADLESS = """
import ctypes, signal, threading, time
def stay():
    while open('/proc/self/stat').read().rpartition(')')[2].split()[0] != 'Z':
        time.sleep(0.01)
    print('up', flush=True)
    signal.pause()
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""
KILLERS: dict[str, Callable[[Sdbox, Running], object]] = {
    "its supervisor's end": lambda _, job: job.process.kill(),
    "sdbox kill": lambda sdbox, job: sdbox.call("kill", job.id),
    "systemctl kill": lambda sdbox, job: sdbox.inside(
        "systemctl", "kill", "--signal=KILL", job.unit
    ),
}


@pytest.mark.parametrize("killer", KILLERS)
@pytest.mark.parametrize("frozen", [False, True])
async def test_who_has_lost_his_first_thread_is_killed_too(
    sdbox: Sdbox, job_manager: Manager, killer: str, frozen: bool
) -> None:
    """Although cgroup.kill leaves him out."""
    job = sdbox.start("--", sys.executable, "-ISc", HEADLESS)
    assert job.line() == "up"
    remains = Remains(sdbox, job)
    if frozen:
        await job_manager.freeze(job.unit)
    KILLERS[killer](sdbox, job)
    remains.wait(time.monotonic() + END_SECONDS)
    await job_manager.wait_removed(job.unit, timeout=END_SECONDS)
    remains.check()
    assert job.end().status == -signal.SIGKILL


async def test_a_killed_supervisor_of_a_forker(sdbox: Sdbox, job_manager: Manager) -> None:
    """A tree that grows while it is killed."""
    script = "echo up; f() { while :; do (sleep 600 & sleep 0.01); done; }; f & f & f & wait"
    job = sdbox.start_sh(script, *BOX)
    assert job.line() == "up"
    remains = Remains(sdbox, job)
    job.process.kill()
    remains.wait(time.monotonic() + END_SECONDS)
    await job_manager.wait_removed(job.unit, timeout=END_SECONDS)
    remains.check()


@pytest.mark.parametrize("options", [(), BOX], ids=["plain", "boxed"])
def test_killed_at_any_moment(sdbox: Sdbox, options: tuple[str, ...]) -> None:
    """While it starts, launches, runs and ends. The check is the one after each test."""
    before = mounts()
    for moment in range(MOMENTS):
        job = sdbox.start(*options, "--", "true")
        try:
            job.process.wait(timeout=0.02 + moment * 0.3 / MOMENTS)
        except subprocess.TimeoutExpired:
            job.process.kill()
        job.end()
    assert mounts() == before


def test_supervisor_and_helper_killed_at_once(sdbox: Sdbox) -> None:
    """Then it is init who ends the box, and the directories go as well."""
    job = start_forks(sdbox, FILL_TMP)
    (helper,) = children(job.pid)
    remains = Remains(sdbox, job)
    # Stopped first, so that none can see the other's end and act on it.
    os.kill(job.pid, signal.SIGSTOP)
    os.kill(helper, signal.SIGKILL)
    os.kill(job.pid, signal.SIGKILL)
    remains.wait(time.monotonic() + END_SECONDS)
    assert directories(job.id) == []


def test_who_kills_all_of_its_name_takes_the_box_along(sdbox: Sdbox) -> None:
    """`pkill -9 -f 'sdbox run'`: it finds the supervisor, and not those that end the box."""
    job = start_forks(sdbox, FILL_TMP, options=("--private-tmp",))
    init, (helper,) = sdbox.members(job.id)[0], children(job.pid)
    assert title(helper) == b"sdbox: helper"
    assert title(init) == f"sdbox: init of {job.id}".encode()
    remains = Remains(sdbox, job)
    of_that_name = [
        pid for pid in (job.pid, helper, init) if f"--id={job.id}".encode() in title(pid)
    ]
    assert of_that_name == [job.pid]
    os.kill(job.pid, signal.SIGKILL)
    remains.wait(time.monotonic() + END_SECONDS)
    assert directories(job.id) == []


def title(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().removesuffix(b"\0")


def test_a_killed_helper_ends_the_job(sdbox: Sdbox) -> None:
    job = start_forks(sdbox, FILL_TMP)
    (helper,) = children(job.pid)
    remains = Remains(sdbox, job)
    os.kill(helper, signal.SIGKILL)
    done = job.end()
    assert done.status != 0
    assert "Traceback" not in done.err
    remains.wait(time.monotonic() + END_SECONDS)
    remains.check()


def test_a_killed_init_takes_the_payload_along(sdbox: Sdbox) -> None:
    for options in ((), BOX):
        job = start_forks(sdbox, options=options)
        remains = Remains(sdbox, job)
        os.kill(sdbox.members(job.id)[0], signal.SIGKILL)
        done = job.end()
        assert done.status == -signal.SIGKILL
        assert "killed" in done.err
        remains.wait(time.monotonic() + END_SECONDS)
        remains.check()


def test_a_box_that_is_stopped_by_systemctl(sdbox: Sdbox, tmp_path: Path) -> None:
    """An administrator ends the unit: TERM, and the job's own way to end."""
    script = "trap 'exit 8' TERM; echo up; while :; do sleep 0.05; done"
    job = sdbox.start_sh(script, *BOX)
    assert job.line() == "up"
    assert sdbox.inside("systemctl", "stop", job.unit).status == 0
    assert job.end().status == 8


def test_a_box_that_is_killed_by_systemctl(sdbox: Sdbox) -> None:
    job = start_forks(sdbox, FILL_TMP)
    assert sdbox.inside("systemctl", "kill", "--signal=KILL", job.unit).status == 0
    assert job.end().status == -signal.SIGKILL


def test_background_children_are_gone_with_the_payload(sdbox: Sdbox) -> None:
    job = start_forks(sdbox, FILL_TMP, then="read line; exit 7")
    remains = Remains(sdbox, job)
    job.send(b"\n")
    done = job.end()
    # At once: nothing may be left when `sdbox run` has returned.
    remains.wait(time.monotonic())
    remains.check()
    assert done.status == 7


def test_background_children_do_not_hold_it_up(sdbox: Sdbox) -> None:
    started = time.monotonic()
    assert sdbox.sh("(trap '' TERM; sleep 600) & exit 3").status == 3
    assert time.monotonic() - started < SECONDS / 2


@pytest.mark.parametrize("options", [(), ("--pid-namespace",)], ids=["shared-pids", "own-pids"])
def test_background_children_do_not_change_the_status(
    sdbox: Sdbox, options: tuple[str, ...]
) -> None:
    # The children end before the payload, and after; by status and by signal.
    script = "(exit 9) & wait; sh -c 'kill -KILL $$' & wait; sleep 600 & (kill -9 $!) & exit 4"
    done = sdbox.sh(script, *options, report=True)
    assert done.status == 4
    assert (done.account["reason"], done.account["exit_code"]) == ("exited", 4)


def test_a_failed_launch_leaves_nothing(sdbox: Sdbox) -> None:
    assert sdbox.run("--private-tmp", "--", "no-such-program").status == 127
    assert sdbox.run("--private-tmp", "--bind=/nonexistent:/mnt", "--", "true").status == 125
    assert sdbox.run("--private-tmp", "--chdir=/nonexistent", "--", "true").status == 125
    units = sdbox.inside("systemctl", "list-units", "--all", "--no-legend", "--plain").out
    assert [job for job in sdbox.ids if job in units] == []


def test_a_sub_cgroup_that_the_job_froze_and_shut(sdbox: Sdbox) -> None:
    """It can't escape its end by what it does below its own cgroup."""
    job = sdbox.start_sh("sleep 600 & echo $!; read line; exit 5")
    job.line()
    below = sdbox.cgroup(job.id) / "below"
    below.mkdir()
    sleeper = sdbox.members(job.id)[-1]
    (below / "cgroup.procs").write_text(str(sleeper))
    (below / "cgroup.freeze").write_text("1")
    below.chmod(0)
    pidfd = os.pidfd_open(sleeper)
    job.send(b"\n")
    assert job.end().status == 5
    assert select.select([pidfd], [], [], 0)[0]
    os.close(pidfd)


# A program of its own that has jobs, for its death. It says when all of them run.
PROGRAM = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
import sdbox
async def main():
    async with sdbox.Launcher() as launcher:
        box = sdbox.Box(PrivateTmp=True)
        command = ["sh", "-c", "setsid sleep 600 & sleep 600"]
        for job in sys.argv[3:]:
            await launcher.start(command, box=box, id=job, unit_type=sys.argv[2])
        print("up", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        {end}
asyncio.run(main())
"""


@pytest.fixture
def program(sdbox: Sdbox) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a program with three jobs, that ends by the statement that is given."""
    started = []
    checkout = Path(__file__).parent.parent.parent

    def start(end: str) -> subprocess.Popen[str]:
        jobs = [sdbox.new_id() for _ in range(3)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(end=end), str(checkout), sdbox.unit_type, *jobs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SDBOX_TEST_JOB": jobs[0]},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=SECONDS)


async def see_jobs_gone(sdbox: Sdbox, job_manager: Manager) -> None:
    end = time.monotonic() + END_SECONDS
    for job in sdbox.ids:
        unit = sdbox.unit(job)
        await job_manager.wait_removed(unit, timeout=max(0.01, end - time.monotonic()))


async def test_a_killed_program_takes_its_jobs_along(
    sdbox: Sdbox, job_manager: Manager, program: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = program("pass")
    process.kill()
    await see_jobs_gone(sdbox, job_manager)


@pytest.mark.parametrize(
    "end", ["return", "raise ValueError", "sys.exit(3)", "import os; os._exit(4)"]
)
async def test_a_program_that_ends_takes_its_jobs_along(
    sdbox: Sdbox,
    job_manager: Manager,
    program: Callable[[str], subprocess.Popen[str]],
    end: str,
) -> None:
    process = program(end)
    process.communicate("\n", timeout=SECONDS)
    await see_jobs_gone(sdbox, job_manager)
