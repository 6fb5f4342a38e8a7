"""The command `sdbox` as its users run it, and the proof that no job leaves anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from sdbox import embedded
from sdbox.cgroup import controllers
from sdbox.errors import TimedOut
from sdbox.launcher import Launcher
from sdbox.systemd.endpoint import booted, locate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from sdbox.manager import Manager
    from sdbox.systemd.endpoint import Endpoint

CHECKOUT = Path(__file__).parent.parent
# In the end, where it shadows nothing: what is tested is the sdbox that is installed.
sys.path.append(str(CHECKOUT))

from tests import ids  # noqa: E402
from tests.pace import seconds  # noqa: E402
from tests.parts import pytest_addoption, pytest_collection_modifyitems  # noqa: E402, F401

SECONDS = seconds(30)
# Not where the checkout may be: below a /tmp that a box hides.
ELSEWHERE = "/"
# Inherited from a job's supervisor by all of its processes: they are found by it.
MARK = "SDBOX_TEST_JOB"

_FROM_CHECKOUT = "import sys; sys.path.insert(0, {!r}); from sdbox.cli import entry; entry()"


# A loaded machine is slow, and that is no failure. The same values each time: what is run for a
# change tells of that change. New ones are tried by `--hypothesis-profile=explore`.
settings.register_profile("sdbox", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile("sdbox")


def pytest_configure(config: pytest.Config) -> None:
    # A shell has what it runs in the background ignore these, and so all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    markers = (
        "needs_controller(name): units must have this resource controller",
        "needs_no_controller(name): units must lack it, so that sdbox is on its own",
        "needs_embedded: the machine's own systemd is not running",
    )
    for line in markers:
        config.addinivalue_line("markers", line)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended. `status` is negative for a signal; `report` that of --report."""

    id: str
    status: int
    stdout: bytes
    stderr: bytes
    report: dict[str, Any] | None = None

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    @property
    def account(self) -> dict[str, Any]:
        assert self.report is not None, "run(…, report=True) was meant"
        return self.report


class Running:
    """A command that runs: its output by lines, its input, its end. All waits have an end."""

    def __init__(self, process: subprocess.Popen[bytes], job: str, unit_type: str) -> None:
        self.process = process
        self.id = job
        self.unit = f"sdbox-{job}.{unit_type}"
        self._read = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        """The next line of stdout, without its newline."""
        return self.until("\n").removesuffix("\n")

    def until(self, text: str) -> str:
        """Stdout up to and including `text`."""
        wanted, end = text.encode(), time.monotonic() + SECONDS
        while wanted not in self._read:
            self._read += self._more(end)
        found, _, self._read = self._read.partition(wanted)
        return (found + wanted).decode()

    def at_end_of_output(self) -> bool:
        """Whether nobody holds stdout any more."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        return bool(select.select([fd], [], [], SECONDS)[0]) and not os.read(fd, 1)

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> Outcome:
        """Close stdin, and wait for the end."""
        stdout, stderr = self.process.communicate(timeout=SECONDS)
        return Outcome(
            id=self.id,
            status=self.process.returncode,
            stdout=self._read + (stdout or b""),
            stderr=stderr or b"",
        )

    def _more(self, end: float) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            raise TimedOut(f"no more than {self._read!r} in {SECONDS:g} s")
        data = os.read(fd, 65536)
        if not data:
            raise AssertionError(f"ended after {self._read!r}")
        return data


class Sdbox:
    """The command, and the jobs that one test has started with it."""

    def __init__(
        self,
        command: tuple[str, ...],
        endpoint: Endpoint,
        directory: Path,
        unit_type: str = "scope",
    ) -> None:
        self.command = command
        self.unit_type = unit_type
        self.options = ["--service"] if unit_type == "service" else []
        self.run_command = [*command, "run", *self.options]
        self.endpoint = endpoint
        self.ids: list[str] = []
        self.directory = directory
        self._running: list[Running] = []

    def new_id(self) -> str:
        self.ids.append(ids.new_id())
        return self.ids[-1]

    def call(self, *words: str | bytes, **options: Any) -> Outcome:
        """Run `sdbox WORDS…`."""
        given: dict[str, Any] = {"input": b"", "timeout": SECONDS, "cwd": ELSEWHERE} | options
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [*self.command, *words], capture_output=True, check=False, **given
        )
        return Outcome(id="", status=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def run(self, *words: str | bytes, report: bool = False, **options: Any) -> Outcome:
        """Run `sdbox run WORDS…` as a job of this test."""
        job = self.new_id()
        place = self.directory / f"{job}.json"
        reporting = [f"--report={place}"] if report else []
        given = _marked(options, job)
        done = self.call("run", f"--id={job}", *self.options, *reporting, *words, **given)
        text = place.read_text() if place.exists() else ""
        return Outcome(
            id=job,
            status=done.status,
            stdout=done.stdout,
            stderr=done.stderr,
            report=json.loads(text) if text else None,
        )

    def sh(self, script: str, *options: str, report: bool = False, **popen: Any) -> Outcome:
        """Run a shell script as a job, with sdbox's OPTIONS."""
        return self.run(*options, "--", "sh", "-c", script, report=report, **popen)

    def start(self, *words: str | bytes, **options: Any) -> Running:
        """Start `sdbox run WORDS…`, which is killed in the end if it still runs."""
        job = self.new_id()
        given: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        # In a process group that has a parent outside: where nobody sees to a group of which some
        # are stopped, the kernel sends SIGHUP to all of it, and it may be these tests'.
        given |= {"cwd": ELSEWHERE, "process_group": 0, **_marked(options, job)}
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [*self.command, "run", f"--id={job}", *self.options, *words], bufsize=0, **given
        )
        self._running.append(Running(process, job, self.unit_type))
        return self._running[-1]

    def start_sh(self, script: str, *options: str, **popen: Any) -> Running:
        return self.start(*options, "--", "sh", "-c", script, **popen)

    def inside(self, *command: str) -> Outcome:
        """Run a command such as systemctl where the jobs' manager is."""
        if self.endpoint.kind == "embedded":
            return self.call("embedded", "exec", "--", *command)
        done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
        return Outcome(id="", status=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def cgroup(self, job: str) -> Path:
        return Path(self.endpoint.cgroup_root, "sdbox.slice", self.unit(job))

    def unit(self, job: str) -> str:
        return f"sdbox-{job}.{self.unit_type}"

    def members(self, job: str) -> list[int]:
        """The PIDs in a job's cgroup, in their order: init is the first."""
        return sorted(map(int, (self.cgroup(job) / "cgroup.procs").read_text().split()))

    def close(self) -> None:
        """Kill what runs, wait until it is gone, and make sure that nothing is left."""
        for running in self._running:
            running.process.kill()
            running.process.communicate(timeout=SECONDS)
        marks = [f"{MARK}={job}\0".encode() for job in self.ids]
        assert wait_for_end(marks, SECONDS), "processes of jobs outlive their supervisors"
        lasting = [job for job in self.ids if self.cgroup(job).exists()]
        if lasting:
            asyncio.run(wait_for_units(map(self.unit, lasting)))
        assert [job for job in self.ids if self.cgroup(job).exists()] == []
        assert [path for job in self.ids for path in private_directories(job)] == []


def _marked(options: dict[str, Any], job: str) -> dict[str, Any]:
    environment = options.get("env")
    marked = dict(os.environ if environment is None else environment) | {MARK: job}
    return options | {"env": marked}


def private_directories(job: str) -> list[Path]:
    return [path for above in ("/tmp", "/var/tmp") for path in Path(above).glob(f"*{job}-*")]


def processes_with(marks: Iterable[bytes]) -> list[int]:
    """The PIDs of all processes that have one of these variables in their environment."""
    found, marks = [], tuple(marks)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue
            if any(mark in environment for mark in marks):
                found.append(int(entry.name))
    return found


def wait_for_end(marks: Iterable[bytes], seconds: float) -> bool:
    """Wait until no process has one of these variables; return whether that came to pass."""
    end, marks = time.monotonic() + seconds, list(marks)
    while pids := processes_with(marks):
        for pid in pids:
            if not wait_for_process(pid, end - time.monotonic()):
                return False
    return True


def wait_for_process(pid: int, seconds: float) -> bool:
    """Wait for the end of any process; return whether it came in time."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], max(0, seconds))[0])
    finally:
        os.close(pidfd)


async def wait_for_units(units: Iterable[str]) -> None:
    """Wait until the manager has no units of these names."""
    async with connected_manager() as connected:
        for unit in units:
            await connected.wait_removed(unit, timeout=SECONDS)


@contextlib.asynccontextmanager
async def connected_manager() -> AsyncIterator[Manager]:
    """A connection to the jobs' manager."""
    async with Launcher() as launcher:
        yield launcher._connected().manager


@pytest.fixture(scope="session")
def sdbox_command() -> tuple[str, ...]:
    """`sdbox` as it is installed beside this Python, or else the checkout's."""
    installed = Path(sys.executable).with_name("sdbox")
    if installed.exists():
        return (str(installed),)
    return (sys.executable, "-I", "-c", _FROM_CHECKOUT.format(str(CHECKOUT)))


@dataclass(frozen=True, kw_only=True)
class Site:
    """The manager of the jobs. `first` is the launch that booted it, if one of ours did."""

    endpoint: Endpoint
    controllers: frozenset[str]
    first: subprocess.CompletedProcess[bytes] | None


@pytest.fixture(scope="session")
def job_site(sdbox_command: tuple[str, ...]) -> Iterator[Site]:
    """The machine's manager, or the embedded one, booted as a user's first launch boots it."""
    if os.geteuid() != 0:
        pytest.skip("a system manager takes jobs from root only")
    first = None
    if not booted() and embedded.find() is None:
        command = [*sdbox_command, "run", f"--id={ids.SESSION}-first", "--", "true"]
        first = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
    endpoint = locate("auto", notice=lambda line: None)
    mounts = _mounts()
    try:
        yield Site(endpoint=endpoint, controllers=controllers(endpoint.cgroup_root), first=first)
        assert asyncio.run(_units()) == []
        assert _left_in_temporary_directories() == []
        assert _mounts() <= mounts
    finally:
        endpoint.close()
        if first is not None:
            # Not by force: a job that still runs is a failure.
            embedded.stop()


def _mounts() -> set[str]:
    """The machine's mounts, as far as they can be of our making."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if "sdbox" in line or ids.SESSION in line or "pytest" in line}


def _left_in_temporary_directories() -> list[Path]:
    parents = (Path("/tmp"), Path("/var/tmp"))
    return [path for above in parents for path in above.glob(f"sdbox-private-{ids.SESSION}-*")]


async def _units() -> list[str]:
    async with connected_manager() as connected:
        return [unit.name for unit in await connected.list_units(f"sdbox-{ids.SESSION}-*")]


@pytest.fixture
def unit_type() -> str:
    """The type of the jobs' units; a module that is for both types parametrizes it."""
    return "scope"


@pytest.fixture
def sdbox(
    sdbox_command: tuple[str, ...], job_site: Site, tmp_path: Path, unit_type: str
) -> Iterator[Sdbox]:
    command = Sdbox(sdbox_command, job_site.endpoint, tmp_path, unit_type)
    yield command
    command.close()


@pytest.fixture
async def job_manager(job_site: Site) -> AsyncIterator[Manager]:
    """A connection to the manager of the jobs."""
    async with connected_manager() as manager:
        yield manager


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Ids for jobs that a test starts through the API."""
    return ids.new_id


@pytest.fixture(autouse=True)
def _capabilities(request: pytest.FixtureRequest) -> None:
    """Skip what this machine can't show, by the name of what it lacks."""
    for marker in request.node.iter_markers("needs_controller"):
        if marker.args[0] not in _site(request).controllers:
            pytest.skip(f"units here have no {marker.args[0]} controller")
    for marker in request.node.iter_markers("needs_no_controller"):
        if marker.args[0] in _site(request).controllers:
            pytest.skip(f"units here have the {marker.args[0]} controller")
    if request.node.get_closest_marker("needs_embedded") and booted():
        pytest.skip("systemd runs as this machine's PID 1")


def _site(request: pytest.FixtureRequest) -> Site:
    site: Site = request.getfixturevalue("job_site")
    return site
