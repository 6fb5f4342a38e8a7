"""Faults of what sdbox stands on: none loses a job, leaves one behind, or hangs.

Each test has a manager of its own to break. Faults of sdbox's own processes are in test_death.py,
names that are taken in test_run.py and test_launcher.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sdbox as api
from sdbox import embedded
from sdbox.errors import ManagerUnavailable
from sdbox.systemd import line
from sdbox.systemd.endpoint import at_embedded
from tests.conftest import Sdbox, private_directories
from tests.pace import seconds, times
from tests.waiting import wait_until, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sdbox.properties import UnitType
    from tests.conftest import Running

    Gone = Callable[["Private"], None]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded manager needs root"),
    pytest.mark.timeout(seconds(240)),
]

SECONDS = seconds(60)
JOBS = int(os.environ.get("SDBOX_TEST_FAULT_JOBS", times(50, least=10)))
# Each is a program of its own.
COMMANDS = int(os.environ.get("SDBOX_TEST_FAULT_JOBS", times(20, least=5)))
# Where each costs more.
FEW = min(JOBS, 6)
# How long there is no bus.
GONE_SECONDS = 1.0
# How long the manager does not answer.
SLOW_SECONDS = float(os.environ.get("SDBOX_TEST_SLOW_MANAGER", "3"))

# Puts the private manager where `sdbox run` looks for the machine's, for one process and its kin.
_AT_THE_USUAL_PLACE = 'mount --bind "$0" /run/sdbox && exec "$@"'
# Waits to be let go, and ends by a status of its own.
WAITER = "echo up; read line; exit {}"
BOX = ("--manager=embedded", "--private-tmp")


@dataclass(frozen=True, kw_only=True)
class Private:
    """A manager for one test alone."""

    manager: embedded.Embedded

    def systemctl(self, *words: str) -> str:
        inside = ["nsenter", f"--target={self.manager.pid}", "--all", "--"]
        done = subprocess.run(
            [*inside, "systemctl", *words], check=True, capture_output=True, timeout=SECONDS
        )
        return done.stdout.decode()

    def pids(self, unit: str) -> list[int]:
        """A service's processes."""
        file = Path(self.manager.cgroup_root, "system.slice", unit, "cgroup.procs")
        return [int(pid) for pid in file.read_text().split()]

    def main_pid(self, unit: str) -> int:
        return int(self.systemctl("show", "--property=MainPID", "--value", unit))

    @contextmanager
    def without_bus(self) -> Iterator[None]:
        """Nobody listens on the bus's socket meanwhile."""
        self.systemctl("stop", "dbus.socket", "dbus.service")
        try:
            yield
        finally:
            self.systemctl("start", "dbus.socket", "dbus.service")

    def restart_bus(self) -> None:
        self.systemctl("restart", "dbus.service")

    def kill_bus(self) -> None:
        """It is started again for the next who comes."""
        self.systemctl("start", "dbus.service")
        killed = self.pids("dbus.service")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        # Until the manager has seen its end, it calls the dead one running, and starts no other.
        wait_until(lambda: self.main_pid("dbus.service") not in killed)

    def reexecute(self) -> None:
        self.systemctl("daemon-reexec")

    def limit_bus(self, **limits: int) -> None:
        """Have the bus start anew, with less of what it gives to each."""
        file = Path(self.manager.root, "run/sdbox/dbus.conf")
        lines = [f'<limit name="{name}">{value}</limit>' for name, value in limits.items()]
        head = file.read_text().partition("<limit")[0]
        file.write_text(f"{head}{''.join(lines)}</busconfig>\n")
        self.restart_bus()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The manager does nothing meanwhile."""
        os.kill(self.manager.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.manager.pid, signal.SIGCONT)

    def has_ended(self) -> bool:
        """Whether it runs no more, be it reaped or not."""
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{self.manager.pid}/stat").read_text()
            return stat.rpartition(")")[2].split()[0] in "ZX"
        return True

    def has_processes(self) -> bool:
        """Whether any job has a process."""
        events = Path(self.manager.cgroup_root, "sdbox.slice", "cgroup.events").read_text()
        return "populated 1" in events

    def units(self) -> list[str]:
        """What there is of jobs."""
        words = ("list-units", "--all", "--no-legend", "--plain", "sdbox-*", "sdbox.supervisor-*")
        lines = self.systemctl(*words).splitlines()
        return [line.split()[0] for line in lines]


def left_in(private: Private) -> list[str]:
    """What there still is of jobs, where the test has not killed the manager."""
    try:
        return [] if private.has_ended() else private.units()
    except subprocess.CalledProcessError:
        # Its end may wait for a process of its namespace that this one had to reap.
        wait_until(private.has_ended)
        return []


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Private]:
    name, directory = f"faults-{os.getpid()}", str(tmp_path / "state")
    manager = embedded.start(name=name, directory=directory)
    private = Private(manager=manager)
    try:
        yield private
        assert left_in(private) == []
    finally:
        embedded.stop(force=True, name=name, directory=directory)


@pytest.fixture
def own(private: Private, sdbox_command: tuple[str, ...], tmp_path: Path) -> Iterator[Sdbox]:
    """`sdbox`, for which the private manager is the machine's embedded one."""
    place = tmp_path / "run"
    place.mkdir(mode=0o700)
    usual = Path(embedded.state.DIRECTORY)
    made = not usual.exists()
    usual.mkdir(mode=0o700, exist_ok=True)
    state = place / "embedded.state"
    state.write_bytes(Path(private.manager.state_file).read_bytes())
    enter = ("unshare", "--mount", "sh", "-c", _AT_THE_USUAL_PLACE, str(place))
    endpoint = at_embedded(private.manager)
    command = Sdbox((*enter, *sdbox_command), endpoint, tmp_path)
    try:
        yield command
        command.close()
    finally:
        endpoint.close()
        if made:
            with suppress(OSError):
                usual.rmdir()


@pytest.fixture
async def launcher(
    private: Private, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[api.Launcher]:
    """A launcher for which the private manager is the machine's embedded one."""
    monkeypatch.setattr(embedded, "find", lambda: private.manager)
    async with api.Launcher(manager="embedded") as launcher:
        yield launcher


class Waiting:
    """Jobs of one launcher that wait. Each ends by a status of its own when they are let go."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self.ends: list[asyncio.Task[api.Result]] = []

    async def start(self, launcher: api.Launcher, count: int) -> None:
        box = api.Box(PrivateTmp=True)
        commands = (["sh", "-c", f"read line; exit {number}"] for number in range(count))
        starts = (launcher.start(words, box=box, stdin=self._reader) for words in commands)
        jobs = await asyncio.gather(*starts)
        self.ends = [asyncio.create_task(job.wait()) for job in jobs]

    def let_go(self) -> None:
        """By the end of their input."""
        self.close()

    async def still(self, seconds: float) -> None:
        """See that none comes to its end in so long: what it takes is not there."""
        done, _ = await asyncio.wait(self.ends, timeout=seconds)
        assert not done

    async def see_ends(self) -> None:
        results = await asyncio.wait_for(asyncio.gather(*self.ends), SECONDS)
        found = [(result.reason, result.exit_code) for result in results]
        assert found == [("exited", number) for number in range(len(self.ends))]

    def close(self) -> None:
        for end in {self._reader, self._writer} - {-1}:
            os.close(end)
        self._reader = self._writer = -1


@asynccontextmanager
async def waiting_jobs(launcher: api.Launcher, count: int) -> AsyncIterator[Waiting]:
    """Have so many jobs wait, and in the end see that each ends as it should."""
    jobs = Waiting()
    try:
        await jobs.start(launcher, count)
        yield jobs
        await jobs.see_ends()
    finally:
        jobs.close()


async def see_it_works(launcher: api.Launcher) -> None:
    assert (await launcher.run(["sh", "-c", "exit 3"])).exit_code == 3


FAULTS = [Private.reexecute, Private.restart_bus, Private.kill_bus]


def fault_name(fault: Callable[..., object]) -> str:
    return fault.__name__


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
async def test_jobs_of_one_program_outlive_it(
    private: Private, launcher: api.Launcher, fault: Gone
) -> None:
    async with waiting_jobs(launcher, JOBS) as jobs:
        await asyncio.to_thread(fault, private)
        jobs.let_go()
    await see_it_works(launcher)


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
async def test_jobs_that_end_meanwhile(
    private: Private, launcher: api.Launcher, fault: Gone
) -> None:
    async with waiting_jobs(launcher, JOBS) as jobs:
        jobs.let_go()
        await asyncio.to_thread(fault, private)
    await see_it_works(launcher)


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
def test_jobs_of_the_command_outlive_it(private: Private, own: Sdbox, fault: Gone) -> None:
    jobs = [start_waiter(own, number) for number in range(COMMANDS)]
    assert {job.line() for job in jobs} == {"up"}
    fault(private)
    let_go(jobs)


def start_waiter(own: Sdbox, number: int, *options: str) -> Running:
    return own.start_sh(WAITER.format(number), *BOX, *options, cwd="/")


def let_go(jobs: list[Running]) -> None:
    """See that jobs which wait end as they should when they are let go, all at once."""
    for job in jobs:
        job.send(b"\n")
    outcomes = [job.end() for job in jobs]
    assert [done.err for done in outcomes] == [""] * len(jobs)
    assert [done.status for done in outcomes] == list(range(len(jobs)))


async def test_jobs_that_end_while_there_is_no_bus(
    private: Private, launcher: api.Launcher
) -> None:
    async with waiting_jobs(launcher, 10) as jobs:
        with private.without_bus():
            jobs.let_go()
            await jobs.still(GONE_SECONDS)
    await see_it_works(launcher)


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
def test_services_outlive_it(private: Private, own: Sdbox, fault: Gone) -> None:
    jobs = [start_waiter(own, number, "--service") for number in range(FEW)]
    assert {job.line() for job in jobs} == {"up"}
    fault(private)
    let_go(jobs)


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
def test_detached_jobs_outlive_it(
    private: Private, own: Sdbox, tmp_path: Path, fault: Gone
) -> None:
    """And so does who waits for them."""
    os.mkfifo(gate := tmp_path / "gate")
    jobs = [own.new_id() for _ in range(3)]
    for number, job in enumerate(jobs):
        words = ("--detach", f"--id={job}", "--", "sh", "-c", f"read x <{gate}; exit {number}")
        assert own.call("run", BOX[0], *words, cwd="/").status == 0
    waiters = [waiting(own, "--manager=embedded", job) for job in jobs]
    fault(private)
    fd = os.open(gate, os.O_RDWR)
    os.write(fd, b"\n" * len(jobs))
    for waiter in waiters:
        waiter.communicate(timeout=SECONDS)
    os.close(fd)
    assert [waiter.returncode for waiter in waiters] == list(range(len(jobs)))
    # The supervisors end with their jobs, by themselves.
    wait_until(lambda: private.units() == [])


@pytest.mark.parametrize("unit_type", ["scope", "service"])
@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
async def test_launches_while_it_happens(
    private: Private, launcher: api.Launcher, fault: Gone, unit_type: UnitType
) -> None:
    """Each starts once, whether the answer to its request is lost or the request itself."""
    box, count = api.Box(PrivateTmp=True), JOBS if unit_type == "scope" else FEW
    runs = (
        launcher.run(["sh", "-c", f"exit {number}"], box=box, unit_type=unit_type)
        for number in range(count)
    )
    launches = [asyncio.create_task(run) for run in runs]
    for _ in range(3):
        await asyncio.to_thread(fault, private)
    results = await asyncio.wait_for(asyncio.gather(*launches), SECONDS)
    assert [result.exit_code for result in results] == list(range(count))


@pytest.mark.parametrize("fault", FAULTS, ids=fault_name)
def test_commands_that_launch_while_it_happens(private: Private, own: Sdbox, fault: Gone) -> None:
    jobs = [start_waiter(own, number) for number in range(COMMANDS // 2)]
    for _ in range(3):
        fault(private)
    let_go(jobs)


async def test_kills_while_it_happens(private: Private, launcher: api.Launcher) -> None:
    jobs = [await launcher.start(["sh", "-c", "trap '' TERM; sleep 600 & wait"]) for _ in range(10)]
    kills = asyncio.gather(*(job.kill() for job in jobs))
    await asyncio.to_thread(private.kill_bus)
    await asyncio.wait_for(kills, SECONDS)
    results = await asyncio.gather(*(job.wait() for job in jobs))
    assert {(result.reason, result.signal) for result in results} == {("killed", signal.SIGKILL)}


async def test_a_slow_manager_at_the_end(private: Private, launcher: api.Launcher) -> None:
    async with waiting_jobs(launcher, 10) as jobs:
        with private.paused():
            jobs.let_go()
            await jobs.still(SLOW_SECONDS)
    await see_it_works(launcher)


async def test_a_slow_manager_at_the_start(private: Private, launcher: api.Launcher) -> None:
    runs = [
        asyncio.create_task(launcher.run(["sh", "-c", f"exit {number}"])) for number in range(10)
    ]
    with private.paused():
        done, _ = await asyncio.wait(runs, timeout=SLOW_SECONDS)
        assert not done
    results = await asyncio.wait_for(asyncio.gather(*runs), SECONDS)
    assert [result.exit_code for result in results] == list(range(10))


async def test_a_kill_by_a_slow_manager(private: Private, launcher: api.Launcher) -> None:
    job = await launcher.start(["sh", "-c", "trap '' TERM; sleep 600 & wait"])
    with private.paused():
        kill = asyncio.create_task(job.kill())
        await asyncio.wait([kill], timeout=SLOW_SECONDS)
    await asyncio.wait_for(kill, SECONDS)
    assert (await job.wait()).reason == "killed"


async def test_a_launch_that_is_given_up_with_a_slow_manager(
    private: Private, launcher: api.Launcher
) -> None:
    """What the manager does when it comes round is undone: see the check after each test."""
    start = asyncio.create_task(launcher.start(["sleep", "600"]))
    with private.paused():
        await asyncio.wait([start], timeout=GONE_SECONDS)
        start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(start, SECONDS)
    await see_it_works(launcher)


def test_a_command_and_a_slow_manager(private: Private, own: Sdbox) -> None:
    """At its start, and at its end."""
    first = start_waiter(own, 0)
    assert first.line() == "up"
    with private.paused():
        first.send(b"\n")
        second = start_waiter(own, 1)
        for job in (first, second):
            with pytest.raises(subprocess.TimeoutExpired):
                job.process.wait(timeout=SLOW_SECONDS / 2)
    second.send(b"\n")
    assert (first.end().status, second.end().status) == (0, 1)


def test_a_killed_supervisor_and_a_slow_manager(private: Private, own: Sdbox) -> None:
    """Killed while its request is under way: see the check after each test."""
    with private.paused():
        job = start_waiter(own, 0)
        with pytest.raises(subprocess.TimeoutExpired):
            job.process.wait(timeout=GONE_SECONDS)
        job.process.kill()
        job.end()


# dbus-daemon refuses by LimitsExceeded what is more.
async def test_a_bus_that_takes_few_calls_at_once(private: Private, launcher: api.Launcher) -> None:
    await asyncio.to_thread(private.limit_bus, max_replies_per_connection=4)
    runs = (launcher.run(["sh", "-c", f"exit {number}"]) for number in range(JOBS))
    results = await asyncio.wait_for(asyncio.gather(*runs), SECONDS)
    assert [result.exit_code for result in results] == list(range(JOBS))


def test_a_bus_that_takes_few_connections(private: Private, own: Sdbox) -> None:
    """More commands than it takes: those that come later wait for their turn."""
    private.limit_bus(max_connections_per_user=6)
    script = "exit 4"
    jobs = [own.start_sh(script, *BOX, cwd="/") for _ in range(15)]
    outcomes = [job.end() for job in jobs]
    assert [(done.status, done.err) for done in outcomes] == [(4, "")] * len(jobs)


async def test_a_manager_that_ends(private: Private, launcher: api.Launcher) -> None:
    """Its jobs end with it, and nobody waits for another to come."""
    jobs = [await launcher.start(["sleep", "600"]) for _ in range(3)]
    os.kill(private.manager.pid, signal.SIGKILL)
    ends = asyncio.gather(*(job.wait() for job in jobs))
    results = await asyncio.wait_for(ends, SECONDS / 6)
    assert {(result.reason, result.signal) for result in results} == {("killed", signal.SIGKILL)}
    with pytest.raises(ManagerUnavailable):
        await asyncio.wait_for(launcher.start(["true"]), SECONDS / 6)


def test_a_commands_manager_that_ends(private: Private, own: Sdbox) -> None:
    job = start_waiter(own, 0)
    assert job.line() == "up"
    # The payload may say so before its supervisor knows; who kills then has a launch fail.
    wait_until(lambda: os.path.realpath(f"/proc/{job.pid}/fd/0") == "/dev/null")
    os.kill(private.manager.pid, signal.SIGKILL)
    status = job.process.wait(timeout=SECONDS / 6)
    assert job.process.stderr is not None
    assert status == -signal.SIGKILL, job.process.stderr.read()
    assert private_directories(job.id) == []
    wait_until(private.has_ended)
    # Nobody is there to remove the unit's cgroup, until a manager is booted anew.
    own.ids.remove(job.id)


async def test_a_bus_that_does_not_come_back(
    private: Private, launcher: api.Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job ends as it should, and takes along what it leaves, without systemd."""
    monkeypatch.setattr(line, "_PATIENCE_SECONDS", GONE_SECONDS)
    script = "setsid sh -c 'trap \"\" TERM; sleep 600' & read line; exit 7"
    reader, writer = os.pipe()
    job = await launcher.start(["sh", "-c", script], stdin=reader)
    killed = await launcher.start(["sleep", "600"])
    with private.without_bus():
        os.close(writer)
        await asyncio.wait_for(killed.kill(), SECONDS)
        results = [await asyncio.wait_for(job.wait(), SECONDS), await killed.wait()]
        assert [result.reason for result in results] == ["exited", "killed"]
        assert results[0].exit_code == 7
        assert not private.has_processes()
    os.close(reader)


def test_a_supervisor_that_is_stopped_and_continued(own: Sdbox) -> None:
    """What its job does meanwhile it learns afterwards."""
    running, ending = start_waiter(own, 5), start_waiter(own, 6)
    assert (running.line(), ending.line()) == ("up", "up")
    pidfd = os.pidfd_open(own.members(ending.id)[-1])
    for job in (running, ending):
        job.signal(signal.SIGSTOP)
    ending.send(b"\n")
    assert select.select([pidfd], [], [], SECONDS)[0]
    os.close(pidfd)
    for job in (running, ending):
        job.signal(signal.SIGCONT)
    running.send(b"\n")
    assert (running.end().status, ending.end().status) == (5, 6)


@pytest.mark.parametrize("stopped", [False, True], ids=["gone", "stopped"])
def test_without_a_journal(private: Private, own: Sdbox, stopped: bool) -> None:
    """Not there, or there and deaf."""
    if stopped:
        for pid in private.pids("systemd-journald.service"):
            os.kill(pid, signal.SIGSTOP)
        fill(f"{private.manager.root}/run/systemd/journal/socket")
    else:
        sockets = ("systemd-journald.socket", "systemd-journald-dev-log.socket")
        private.systemctl("stop", *sockets, "systemd-journald.service")
    done = own.sh("exit 8", *BOX, report=True, cwd="/")
    assert (done.status, done.err) == (8, "")
    assert done.account["reason"] == "exited"


def fill(path: str) -> None:
    """Send what nobody reads, until the socket takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.sendto(b"MESSAGE=" + b"x" * 60_000, path)


def test_a_disk_that_is_full_for_the_report(own: Sdbox, tmp_path: Path) -> None:
    """The status is right, the fault is told in a line; no half a report is taken for a whole."""
    mounted = 'mount -t tmpfs -o size=4k none "$0" && head -c 4096 /dev/zero >"$0/x"; exec "$@"'
    place = tmp_path / "full"
    place.mkdir()
    command = ["unshare", "--mount", "sh", "-c", mounted, str(place), *own.command]
    words = ["run", "--manager=embedded", f"--id={own.new_id()}", f"--report={place}/report"]
    done = subprocess.run(
        [*command, *words, "--", "sh", "-c", "exit 7"],
        check=False,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        text=True,
    )
    assert done.returncode == 7
    assert done.stderr == "sdbox: --report: No space left on device\n"


def test_a_stderr_that_is_closed(own: Sdbox, tmp_path: Path) -> None:
    """What there is to say is in the report; and nothing is said where the payload reads."""
    place = tmp_path / "report"
    words = ["run", *BOX, f"--id={own.new_id()}", f"--report={place}", "--", "no-such-program"]
    closed = ["sh", "-c", 'exec "$0" "$@" 2>&-', *own.command, *words]
    done = subprocess.run(closed, check=False, stdout=subprocess.PIPE, timeout=SECONDS, cwd="/")
    assert (done.returncode, done.stdout) == (127, b"")
    account = json.loads(place.read_text())
    assert account["reason"] == "launch-failed"
    assert "no-such-program" in account["message"]
