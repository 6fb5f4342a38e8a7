"""AssignedCPUs=: a CPU is one job's, whoever launches jobs here, and free whenever that ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.cgroup import Cgroup
from sdbox.cpus import assignment, topology
from sdbox.cpus.holders import holders, settle
from sdbox.cpus.register import ROOTS, Register
from sdbox.errors import CPUsTaken, Unenforceable
from sdbox.kernel import locks
from sdbox.launcher import Launcher
from sdbox.values import CPURequest
from tests.conftest import MARK, SECONDS, wait_for_units
from tests.pace import times
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdbox.manager import Manager
    from tests.conftest import Running, Sdbox, Site

FOUR = frozenset(range(4))
ONE = CPURequest(count=1)

# Asks for so many of four CPUs at each line, says which it has, and lets go of them at the next.
LAUNCHER = """
import os, sys
sys.path[:] = {path!r}
from sdbox import loop
from sdbox.cpus import assignment
from sdbox.errors import CPUsTaken
from sdbox.cpus.register import Register
from sdbox.values import CPURequest
for line in sys.stdin:
    asked = CPURequest(count=int(line))
    here = Register(directory={directory!r}, owner=os.getuid())
    places = {{"registers": [here], "sysfs": {sysfs!r}}}
    try:
        claim = loop.run(assignment.claim(asked, frozenset(range(4)), **places))
    except CPUsTaken:
        print("none", flush=True)
        continue
    print(*claim.cpus, flush=True)
    sys.stdin.readline()
    claim.close()
    print("free", flush=True)
"""


class Place:
    """A host of four CPUs, of two cores, and the launchers on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory / "cpus-of-jobs")
        self.registers = [Register(directory=self.directory, owner=os.getuid())]
        self.sysfs = str(directory / "cpu")
        for cpu in range(4):
            _describe(Path(self.sysfs, f"cpu{cpu}"), core=cpu % 2)
        Path(self.sysfs, "online").write_text("0-3\n")
        self.launchers: list[subprocess.Popen[str]] = []

    def launcher(self) -> subprocess.Popen[str]:
        program = LAUNCHER.format(path=sys.path, directory=self.directory, sysfs=self.sysfs)
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.launchers.append(process)
        return process

    async def claim(
        self, request: CPURequest = ONE, allowed: frozenset[int] = FOUR, *, seconds: float = 0.0
    ) -> assignment.Claim:
        return await assignment.claim(
            request, allowed, seconds=seconds, registers=self.registers, sysfs=self.sysfs
        )

    def close(self) -> None:
        for process in self.launchers:
            process.kill()
            process.communicate(timeout=SECONDS)


def _describe(cpu: Path, core: int) -> None:
    """As the kernel describes one of the CPUs of two cores with a cache of their own each."""
    siblings = f"{core},{core + 2}\n"
    files = {
        "topology/core_id": f"{core}\n",
        "topology/physical_package_id": "0\n",
        "topology/thread_siblings_list": siblings,
        "cache/index0/level": "1\n",
        "cache/index0/shared_cpu_list": f"{cpu.name[3:]}\n",
        "cache/index2/level": "2\n",
        "cache/index2/shared_cpu_list": siblings,
    }
    for name, text in files.items():
        (cpu / name).parent.mkdir(parents=True, exist_ok=True)
        (cpu / name).write_text(text)
    (cpu / "node1").mkdir()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    host = Place(tmp_path)
    yield host
    host.close()


def say(process: subprocess.Popen[str], line: object) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], SECONDS)[0]
    return process.stdout.readline().strip()


@pytest.mark.parametrize("counts", [(1,) * 8, (1, 2, 3, 1, 2, 1, 4, 2)], ids=["alike", "mixed"])
def test_launchers_that_race_never_get_the_same_twice(
    place: Place, counts: tuple[int, ...]
) -> None:
    launchers = [place.launcher() for _ in counts]
    for _ in range(times(200, least=20)):
        for process, count in zip(launchers, counts, strict=True):
            say(process, count)
        answers = [heard(process) for process in launchers]
        given = [cpu for answer in answers if answer != "none" for cpu in answer.split()]
        assert len(given) == len(set(given))
        assert set(given) <= set("0123")
        for process, answer, count in zip(launchers, answers, counts, strict=True):
            if answer == "none":
                # Nor is anybody refused what is there.
                assert 4 - len(given) < count
            else:
                assert len(answer.split()) == count
                say(process, "")
        assert [heard(p) for p, a in zip(launchers, answers, strict=True) if a != "none"] == [
            "free" for answer in answers if answer != "none"
        ]


async def test_what_a_killed_launcher_had_is_free(place: Place) -> None:
    process = place.launcher()
    say(process, 4)
    assert heard(process) == "0 1 2 3"
    with pytest.raises(CPUsTaken):
        await place.claim()
    waiting = asyncio.create_task(place.claim(CPURequest(count=4), seconds=SECONDS))
    await asyncio.sleep(0)
    process.kill()
    claim = await waiting
    assert claim.cpus == (0, 1, 2, 3)
    claim.close()


async def test_who_waits_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a row of waiting ones is next as soon as the one before lets go."""
    # None looks by itself within the time that this waits for it.
    monkeypatch.setattr(assignment, "_LOOK_ANYWAY_SECONDS", 2 * SECONDS)
    claim = await place.claim(CPURequest(count=4))
    waiting = [
        asyncio.create_task(place.claim(CPURequest(count=3), seconds=2 * SECONDS)) for _ in range(5)
    ]
    claim.close()
    for _ in range(5):
        done, rest = await asyncio.wait(
            waiting, timeout=SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        assert len(done) == 1
        done.pop().result().close()
        waiting = list(rest)


async def test_who_need_not_wait_has_nothing_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which a user may have no more than 128 at a time, whatever for."""
    monkeypatch.setattr(assignment, "Inotify", _too_many(errno.EMFILE))
    claim = await place.claim(CPURequest(count=4))
    with pytest.raises(CPUsTaken):
        await place.claim()
    claim.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
async def test_who_can_have_nothing_told_looks_by_himself(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(assignment, "Inotify", _too_many(number))
    monkeypatch.setattr(assignment, "_LOOK_UNTOLD_SECONDS", 0.01)
    claim = await place.claim(CPURequest(count=4))
    waiting = asyncio.create_task(place.claim(seconds=SECONDS))
    await asyncio.sleep(0)
    claim.close()
    (await waiting).close()


def _too_many(number: int) -> Callable[[], None]:
    """Stand for inotify(7) where that user has as many as he may."""

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    return refuse


async def test_a_descriptor_that_is_inherited_holds(place: Place) -> None:
    claim = await place.claim(CPURequest(count=4))
    sleeper = await asyncio.create_subprocess_exec("sleep", "600", pass_fds=[claim.fd])
    claim.close()
    with pytest.raises(CPUsTaken):
        await place.claim()
    sleeper.kill()
    await sleeper.wait()
    (await place.claim()).close()


async def test_which_are_chosen(place: Place) -> None:
    one = await place.claim()
    two = await place.claim(CPURequest(count=2))
    rest = await place.claim()
    assert (one.cpus, two.cpus, rest.cpus) == ((0,), (1, 3), (2,))
    for claim in (one, two, rest):
        claim.close()
    some = await place.claim(CPURequest(count=2, cpus=(2, 3)))
    assert some.cpus == (2, 3)
    with pytest.raises(CPUsTaken, match=r"AssignedCPUs=1,3: CPUs 1,3 can't be had: a job that"):
        await place.claim(CPURequest(count=2, cpus=(1, 3)))
    others = await place.claim(CPURequest(count=1), frozenset({1, 2}))
    assert others.cpus == (1,)
    some.close()
    others.close()


@pytest.mark.parametrize(
    ("request_", "allowed", "message"),
    [
        (CPURequest(count=3), {0, 2}, "3 are asked for, and a job may have CPUs 0,2 here"),
        (CPURequest(count=5), {0, 1, 2, 3, 4}, "5 are asked for, and a job may have CPUs 0-3"),
        (CPURequest(count=1), set(), "1 are asked for, and a job may have none here"),
        (CPURequest(count=1, cpus=(1,)), {0, 2}, "CPU 1 can't be had: a job may have CPUs 0,2"),
        (CPURequest(count=1, cpus=(9,)), {0, 9}, "CPU 9 can't be had: a job may have CPU 0 here"),
    ],
)
async def test_what_can_never_be_had(
    place: Place, request_: CPURequest, allowed: set[int], message: str
) -> None:
    with pytest.raises(Unenforceable) as caught:
        await place.claim(request_, frozenset(allowed), seconds=SECONDS)
    assert message in str(caught.value)


def test_the_topology_that_is_read(place: Place) -> None:
    found = topology.read(place.sysfs)
    assert list(found) == [0, 1, 2, 3]
    assert found[2] == topology.Cpu(
        number=2,
        core_number=0,
        socket=0,
        node=1,
        core=frozenset({0, 2}),
        cache=frozenset({0, 2}),
    )


def test_the_topology_of_this_machine() -> None:
    found = topology.read()
    assert os.sched_getaffinity(0) <= found.keys()
    assert all(cpu.number in cpu.core <= cpu.cache for cpu in found.values())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
async def test_what_others_can_reach(place: Place, umask: int) -> None:
    """Root's file can be looked up, and nobody else can open it, which it takes to lock it."""
    before = os.umask(umask)
    try:
        (await place.claim()).close()
    finally:
        os.umask(before)
    register = place.registers[0]
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (register.directory, register.path)]
    assert modes == [0o700 if os.getuid() else 0o711, 0o1600]


@pytest.mark.parametrize("name", ["", "holders"])
def test_what_leads_elsewhere_is_refused(place: Place, tmp_path: Path, name: str) -> None:
    asyncio.run(place.claim()).close()
    other = tmp_path / "other"
    other.mkdir()
    real = Path(place.directory, name)
    real.rename(tmp_path / "moved")
    real.symlink_to(other)
    with pytest.raises(Unenforceable, match=r"AssignedCPUs: .*/holders: "):
        asyncio.run(place.claim())
    assert list(other.iterdir()) == []


def test_a_directory_that_others_may_write_to_is_refused(place: Place) -> None:
    asyncio.run(place.claim()).close()
    os.chmod(place.directory, 0o722)  # noqa: S103 - that is what is refused
    with pytest.raises(Unenforceable, match="not its user's alone"):
        asyncio.run(place.claim())


async def test_what_cant_be_written_is_told(place: Place) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(Unenforceable, match=r"AssignedCPUs: .*/holders: File too large"):
            await place.claim()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (await place.claim()).close()


async def test_a_register_that_was_removed_is_told(place: Place, tmp_path: Path) -> None:
    """Or another job would be given the same, of a new one."""
    register = place.registers[0]
    claim = await place.claim()
    with Cgroup.open(str(tmp_path)) as cgroup:
        settle("a", claim.cpus, cgroup, register=register)
        assert holders(claim.cpus, [register])[claim.cpus[0]].job == "a"
        shutil.rmtree(place.directory)
        with pytest.raises(Unenforceable, match=r"/holders: somebody has removed it"):
            settle("a", claim.cpus, cgroup, register=register)
    claim.close()


def test_what_the_kernel_lists_of_locks(tmp_path: Path) -> None:
    """For writing, and held: neither those for reading, nor another file's."""
    paths = [tmp_path / name for name in ("one", "other")]
    files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in (*paths, paths[0])]
    try:
        locks.take(files[0], 4096)
        locks.take(files[0], 1 << 40)
        locks.take(files[1], 5)
        fcntl.lockf(files[0], fcntl.LOCK_EX, 1, 7)
        fcntl.fcntl(files[2], fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_RDLCK, 0, 9, 1, 0))
        assert locks.listed(os.stat(paths[0])) == {4096, 1 << 40}
        locks.leave(files[0], 4096)
        assert locks.listed(os.stat(paths[0])) == {1 << 40}
        assert locks.listed(os.stat(paths[1])) == {5}
    finally:
        for fd in files:
            os.close(fd)
    assert locks.listed(os.stat(paths[0])) == frozenset()


# With real jobs. Of all CPUs just two are theirs, as if the machine had no more.
TWO = tuple(sorted(os.sched_getaffinity(0)))[:2]
ALLOWED = [] if len(TWO) < 2 else ["-p", f"CPUAffinity={TWO[0]},{TWO[1]}"]
ASK_FOR_ONE = [*ALLOWED, "--cpus=1"]
SHOW = "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status"

needs_two = pytest.mark.skipif(len(TWO) < 2, reason="this machine has one CPU")


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def start(sdbox: Sdbox, *options: str) -> tuple[Running, int]:
    """Start a job that waits for a line; return it and the CPU that it sees itself on."""
    running = sdbox.start_sh(f"{SHOW}; read line", *ASK_FOR_ONE, *options)
    return running, int(running.line())


def holder_of(sdbox: Sdbox, cpu: int) -> str | None:
    listed = {entry["cpu"]: entry for entry in json.loads(sdbox.call("cpus", "--json").out)}
    assert listed[cpu]["held"] == (listed[cpu]["job"] is not None)
    job: str | None = listed[cpu]["job"]
    return job


@needs_two
def test_two_jobs_have_different_cpus_and_the_third_has_none(sdbox: Sdbox, job_site: Site) -> None:
    first, one = start(sdbox)
    second, two = start(sdbox)
    assert {one, two} == set(TWO)
    assert (holder_of(sdbox, one), holder_of(sdbox, two)) == (first.id, second.id)
    third = sdbox.run(*ASK_FOR_ONE, "--", "true", report=True)
    assert (third.status, third.out) == (125, "")
    assert re.fullmatch(r"sdbox: AssignedCPUs=1: [^\n]*\n", third.err)
    assert f"{first.id} has CPU {one}" in third.err
    assert f"{second.id} has CPU {two}" in third.err
    assert "--wait-cpus" in third.err
    first.send(b"\n")
    assert first.end().status == 0
    assert holder_of(sdbox, one) is None
    done = sdbox.sh(SHOW, *ASK_FOR_ONE, report=True)
    assert done.out == f"{one}\n"
    by = "kernel" if "cpuset" in job_site.controllers else "affinity"
    assert done.account["enforcement"]["AssignedCPUs"] == by
    assert ("kept by affinity" in done.err) == (by == "affinity")
    assert done.account["cpus"] == [one]
    assert done.account["box"]["AssignedCPUs"] == "1"


@needs_two
@pytest.mark.needs_controller("cpuset")
def test_a_job_cant_get_off_its_cpu(sdbox: Sdbox) -> None:
    done = sdbox.sh(
        f"taskset -pc {TWO[0]},{TWO[1]} $$ >/dev/null; {SHOW}", f"--cpus={TWO[1]}-{TWO[1]}"
    )
    assert done.out == f"{TWO[1]}\n"


@needs_two
def test_the_cpu_of_a_killed_supervisor_is_free(sdbox: Sdbox) -> None:
    first, one = start(sdbox)
    _, two = start(sdbox)
    waiting = sdbox.start_sh(SHOW, *ASK_FOR_ONE, f"--wait-cpus={SECONDS:g}s")
    wait_until(lambda: _waits(waiting.pid))
    assert holder_of(sdbox, one) == first.id
    first.signal(signal.SIGKILL)
    assert waiting.line() == str(one)
    assert waiting.end().status == 0
    assert holder_of(sdbox, two) is not None


def _waits(pid: int) -> bool:
    """Whether a process has inotify(7) tell it of something."""
    with contextlib.suppress(OSError):
        return any("inotify wd:" in p.read_text() for p in Path(f"/proc/{pid}/fdinfo").iterdir())
    return False


@needs_two
def test_exactly_these(sdbox: Sdbox) -> None:
    assert sdbox.sh(SHOW, f"--cpus={TWO[1]}-{TWO[1]}").out == f"{TWO[1]}\n"
    both = sdbox.start_sh(f"{SHOW}; read line", f"--cpus={TWO[0]},{TWO[1]}")
    assert topology.parse(both.line()) == set(TWO)
    refused = sdbox.run(f"--cpus={TWO[1]},{TWO[0]}", "--", "true")
    assert refused.status == 125
    assert f"{both.id} has CPUs" in refused.err


@needs_two
def test_waiting_has_an_end(sdbox: Sdbox) -> None:
    both = sdbox.start_sh("echo; read line", f"--cpus={TWO[0]},{TWO[1]}")
    both.line()
    begun = time.monotonic()
    done = sdbox.run(*ASK_FOR_ONE, "--wait-cpus=300ms", "--", "true")
    assert time.monotonic() - begun >= 0.3
    assert done.status == 125
    assert "after 0.3 s" in done.err
    assert both.id in done.err


@needs_two
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(sdbox: Sdbox, number: signal.Signals) -> None:
    both = sdbox.start_sh("echo; read line", f"--cpus={TWO[0]},{TWO[1]}")
    both.line()
    waiting = sdbox.start(*ASK_FOR_ONE, "--wait-cpus=10m", "--", "true")
    wait_until(lambda: _waits(waiting.pid))
    waiting.signal(number)
    done = waiting.end()
    assert (done.status, done.err) == (-number, "")


def test_who_waits_for_nothing_is_told_at_once(sdbox: Sdbox) -> None:
    done = sdbox.run("--wait-cpus=10m", "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert "Add --cpus" in done.err
    done = sdbox.run("--cpus=1", "--wait-cpus=soon", "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert '--wait-cpus: "soon" is not a span of time' in done.err


@pytest.mark.parametrize("options", [[], ["--wait-cpus=1m"]], ids=["at once", "waiting"])
def test_who_holds_it(sdbox: Sdbox, options: list[str]) -> None:
    """Who sees to the box's end, and nobody else."""
    running = sdbox.start_sh("echo; read line", "--cpus=1", *options)
    running.line()
    helper = int(_children(running.pid).split()[0])
    holding = {pid for pid in (running.pid, helper, *sdbox.members(running.id)) if _holds(pid)}
    assert helper in holding
    assert running.pid not in holding
    inside = {pid: _name(pid) for pid in sdbox.members(running.id)}
    assert {pid for pid, name in inside.items() if name == "sh"}.isdisjoint(holding)
    assert len(holding.intersection(inside)) == 1


def _holds(pid: int) -> bool:
    links = Path(f"/proc/{pid}/fd").iterdir()
    return any(os.readlink(link).startswith(ROOTS.directory) for link in links)


def test_a_launch_that_fails_lets_go(sdbox: Sdbox) -> None:
    done = sdbox.run("--cpus=1", "--", "/no/such/program")
    assert done.status == 127
    assert sdbox.ids[-1] not in sdbox.call("cpus").out
    done = sdbox.run("--cpus=1", "--output=/no/such/directory/file", "--", "true")
    assert done.status == 125
    assert sdbox.ids[-1] not in sdbox.call("cpus").out


# What is left of a service systemd ends itself.
@needs_two
@pytest.mark.parametrize("unit_type", ["scope"])
def test_a_payload_that_nobody_sees_to_keeps_its_cpu(sdbox: Sdbox) -> None:
    """Supervisor, helper and init are killed in one moment; the payload is not, and lives on."""
    # Nothing but the payload itself is left of it when it says that.
    script = f"echo $({SHOW}); read line; exec sleep 600"
    running = sdbox.start_sh(script, *ASK_FOR_ONE)
    cpu = int(running.line())
    members = sdbox.members(running.id)
    helper = int(_children(running.pid))
    payload = next(pid for pid in members if _name(pid) in ("sh", "sleep"))
    # The supervisor last: the kernel continues what is stopped in a process group that it orphans.
    theirs = [*(pid for pid in members if pid != payload), helper, running.pid]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in theirs:
            os.kill(pid, number)
    running.process.wait(SECONDS)
    assert holder_of(sdbox, cpu) == running.id
    os.kill(payload, signal.SIGKILL)
    wait_until(lambda: holder_of(sdbox, cpu) is None)


@needs_two
def test_a_job_of_the_same_name_is_another_one(sdbox: Sdbox) -> None:
    first, cpu = start(sdbox)
    first.send(b"\n")
    assert first.end().status == 0
    again = sdbox.start_sh("echo; read line", f"--id={first.id}")
    again.line()
    assert holder_of(sdbox, cpu) is None
    assert sdbox.sh(SHOW, f"--cpus={cpu}-{cpu}").out == f"{cpu}\n"


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


@needs_two
async def test_a_launchers_jobs(new_id: Callable[[], str]) -> None:
    box = Box(AssignedCPUs=1, CPUAffinity=TWO)
    async with Launcher() as launcher:
        jobs = [await launcher.start(["sleep", "600"], box=box, id=new_id()) for _ in range(2)]
        assert {job.plan.cpus for job in jobs} == {(cpu,) for cpu in TWO}
        with pytest.raises(CPUsTaken):
            await launcher.start(["true"], box=box, id=new_id())
        third = asyncio.create_task(launcher.run(["true"], box=box, id=new_id(), wait_cpus=SECONDS))
        await jobs[0].kill()
        result = await third
        assert (result.exit_code, result.cpus) == (0, jobs[0].plan.cpus)
        await jobs[1].kill()
        await asyncio.gather(*(job.wait() for job in jobs))
        assert not {job.id for job in jobs} & {one.job for one in holders(topology.read()).values()}


@needs_two
@pytest.mark.parametrize("unit_type", ["service"])
async def test_a_detached_job_keeps_its_cpu(sdbox: Sdbox, job_manager: Manager) -> None:
    job = sdbox.new_id()
    done = sdbox.call(
        *("run", "--detach", f"--id={job}", *ASK_FOR_ONE, "--", "sleep", "600"),
        env={**os.environ, MARK: job},
    )
    assert done.status == 0
    held = [cpu for cpu in TWO if holder_of(sdbox, cpu) == job]
    assert len(held) == 1
    assert sdbox.call("kill", job).status == 0
    await wait_for_units([f"sdbox-{job}.service", f"sdbox.supervisor-{job}.service"])
    assert holder_of(sdbox, held[0]) is None


@needs_two
def test_the_table(sdbox: Sdbox) -> None:
    running, cpu = start(sdbox)
    lines = [line.split() for line in sdbox.call("cpus").out.splitlines()]
    assert [line[0] for line in lines] == [str(number) for number in topology.read()]
    assert {line[0]: line[-1] for line in lines}[str(cpu)] == running.id
