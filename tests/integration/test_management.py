"""The verbs on running jobs, from a second terminal: list, show, freeze, thaw, kill, stop, wait."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sdbox as package
from sdbox import bus
from sdbox.box import Box
from sdbox.errors import NoSuchJob
from sdbox.management.groups import places
from sdbox.management.memo import recall
from tests.conftest import SECONDS
from tests.ids import SESSION
from tests.pace import times
from tests.scopes import scopes
from tests.waiting import wait_until, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Running, Sdbox, Site

CHATTER = "while :; do echo still here; done"
WAITS = "echo up; exec cat"


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def started(sdbox: Sdbox, script: str = WAITS, *options: str) -> Running:
    job = sdbox.start_sh(script, *options)
    job.line()
    # It is written down while it starts.
    root = sdbox.endpoint.cgroup_root
    (path,) = [place.path for place in places(root) if place.unit == job.unit]
    wait_until(lambda: recall(f"{root}{path}") is not None)
    return job


def listed(sdbox: Sdbox, *names: str) -> list[dict[str, Any]]:
    done = sdbox.call("list", "--json", *names)
    assert done.err == ""
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def status_of(sdbox: Sdbox, job: Running) -> dict[str, Any]:
    (one,) = listed(sdbox, job.id)
    return one


def quiet(sdbox: Sdbox, *words: str) -> None:
    """Have a verb do what it is for, without a word."""
    done = sdbox.call(*words)
    assert (done.status, done.out, done.err) == (0, "", "")


def freezer_state(sdbox: Sdbox, job: Running) -> str:
    return sdbox.inside("systemctl", "show", job.unit, "--property=FreezerState", "--value").out


def drained(job: Running) -> None:
    """Read what is in a job's pipe, which is full or holds what a frozen job has left there."""
    assert job.process.stdout is not None
    while select.select([job.process.stdout], [], [], 0)[0]:
        os.read(job.process.stdout.fileno(), 1 << 20)


def test_two_terminals(sdbox: Sdbox) -> None:
    job = started(sdbox, CHATTER)
    assert status_of(sdbox, job)["state"] == "running"
    shown = sdbox.call("show", job.id).out
    assert job.unit in shown
    assert "running (active, running)" in shown

    quiet(sdbox, "freeze", job.id)
    drained(job)
    assert status_of(sdbox, job)["state"] == "frozen"
    assert freezer_state(sdbox, job) == "frozen\n"
    assert job.process.stdout is not None
    # Two commands later it would have said much.
    assert not select.select([job.process.stdout], [], [], 0)[0]

    quiet(sdbox, "thaw", job.id)
    assert job.line() == "still here"
    assert freezer_state(sdbox, job) == "running\n"
    quiet(sdbox, "kill", job.id)
    assert job.end().status == -signal.SIGKILL
    assert sdbox.call("list", job.id).status == 4
    assert job.id not in {one["job"] for one in listed(sdbox)}


def test_freeze_and_thaw_twice(sdbox: Sdbox) -> None:
    job = started(sdbox)
    for verb, state in (("thaw", "running"), ("freeze", "frozen"), ("thaw", "running")):
        quiet(sdbox, verb, job.id)
        quiet(sdbox, verb, job.id)
        assert status_of(sdbox, job)["state"] == state
    assert job.end().status == 0


def test_a_frozen_job_is_killed(sdbox: Sdbox) -> None:
    job = started(sdbox)
    quiet(sdbox, "freeze", job.id)
    quiet(sdbox, "kill", job.id)
    assert job.end().status == -signal.SIGKILL


def test_a_frozen_job_is_stopped(sdbox: Sdbox) -> None:
    script = 'trap "echo asked; exit 5" TERM; echo up; while :; do read line; done'
    job = started(sdbox, script)
    quiet(sdbox, "freeze", job.id)
    quiet(sdbox, "stop", job.id)
    assert job.line() == "asked"
    assert job.end().status == 5


def test_a_signal_to_all(sdbox: Sdbox) -> None:
    script = (
        'trap "echo one" USR1; sh -c \'trap "echo two" USR1; echo up; while :; do read x; done\''
    )
    job = started(sdbox, f"{script} & while :; do read x; done")
    # dash, with nothing to read, starts `read` over again.
    quiet(sdbox, "kill", "-s", "USR1", job.id)
    assert "two" in job.until("two")
    quiet(sdbox, "kill", "--signal=9", job.id)
    job.end()


def test_stop_of_one_that_will_not(sdbox: Sdbox) -> None:
    job = started(sdbox, 'trap "" TERM; echo up; while :; do read x; done', "--stop-timeout=200ms")
    quiet(sdbox, "stop", job.id)
    assert job.end().status == -signal.SIGKILL


def test_a_frozen_slice(sdbox: Sdbox) -> None:
    # With a dash it would be in another slice.
    name = f"sdbox-{sdbox.new_id().replace('-', '_')}.slice"
    job = started(sdbox, WAITS, f"--slice={name}")
    assert sdbox.inside("systemctl", "freeze", name).status == 0
    try:
        one = status_of(sdbox, job)
        assert (one["state"], one["frozen_by"]) == ("frozen-by-parent", name)
        assert f"frozen-by-parent, by its slice {name}" in sdbox.call("show", job.id).out
        refused = sdbox.call("thaw", job.id)
        assert refused.status == 125
        assert f"systemctl thaw {name}" in refused.err
    finally:
        assert sdbox.inside("systemctl", "thaw", name).status == 0
        after = status_of(sdbox, job)["state"]
        job.end()
        sdbox.inside("systemctl", "stop", name)
    assert after == "running"


def test_what_is_told_of_a_job(sdbox: Sdbox) -> None:
    job = started(sdbox, WAITS, "-p", "LimitNOFILE=100", "--env", "TOKEN=secret", "--private-tmp")
    (one,) = json.loads(sdbox.call("show", "--json", job.unit).out)
    assert one["job"] == job.id
    assert one["unit"] == job.unit
    assert one["command"] == ["sh", "-c", WAITS]
    assert one["owner_uid"] == 0
    # What variables are set to is nobody else's business.
    assert one["box"] == {"PrivateTmp": "yes", "Environment": ["TOKEN=…"], "LimitNOFILE": "100"}
    assert one["supervisor"]["pid"] == job.pid
    assert one["supervisor"]["alive"] is True
    assert one["cgroup"].endswith(job.unit)
    assert one["usage"]["tasks"] >= 2
    assert one["usage"]["memory_bytes"] > 0
    text = sdbox.call("show", job.id).out
    assert "secret" not in text
    for word in ("Box: PrivateTmp=yes", f"PID {job.pid}", "root (0)", "sh -c 'echo up; exec cat'"):
        assert word in text
    assert job.end().status == 0


def test_columns(sdbox: Sdbox) -> None:
    job = started(sdbox)
    for words in (("list", job.id), ("ps", job.id), ("usage", job.id)):
        (line,) = sdbox.call(*words).out.splitlines()
        assert line.split()[:2] == [job.id, "running"]
        assert line.endswith("sh -c 'echo up; exec cat'")
    (used,) = json.loads(sdbox.call("usage", "--json", job.id).out)
    assert used["cpu_user_seconds"] >= 0
    job.end()


def test_patterns(sdbox: Sdbox) -> None:
    jobs = [started(sdbox) for _ in range(3)]
    first, *others = jobs
    ids = sorted(job.id for job in jobs)
    prefix = f"{SESSION}-"
    for pattern in (f"{prefix}*", f"sdbox-{prefix}*", f"sdbox-{prefix}*.{sdbox.unit_type}"):
        assert [one["job"] for one in listed(sdbox, pattern)] == ids
    assert listed(sdbox, first.id, first.unit, f"{first.id}*")[0]["job"] == first.id
    quiet(sdbox, "freeze", *(job.id for job in others))
    assert [status_of(sdbox, job)["state"] for job in jobs] == ["running", "frozen", "frozen"]
    quiet(sdbox, "kill", f"{prefix}*")
    assert [job.end().status for job in jobs] == [-signal.SIGKILL] * 3


@pytest.mark.parametrize(
    "verb", ["show", "freeze", "thaw", "kill", "stop", "wait", "usage", "list"]
)
def test_no_such_job(sdbox: Sdbox, verb: str) -> None:
    done = sdbox.call(verb, "no-such-job")
    assert done.status == 4
    assert done.out == ""
    assert done.err.splitlines() == [
        "sdbox: no-such-job: no such job. `sdbox list` shows those that there are"
    ]


def test_one_that_is_not_there_keeps_no_other_from_its_turn(sdbox: Sdbox) -> None:
    job = started(sdbox)
    done = sdbox.call("freeze", "no-such-job", job.id, "sdbox-*none*")
    assert done.status == 4
    assert len(done.err.splitlines()) == 2
    assert status_of(sdbox, job)["state"] == "frozen"
    quiet(sdbox, "kill", job.id)
    job.end()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["freeze"], 2, "required: JOB"),
        (["kill", "-s", "NONSENSE", "x"], 125, "is not a signal"),
        (["kill", "-s", "65", "x"], 125, "signal"),
        (["freeze", "--timeout", "soon", "x"], 2, "invalid float"),
        (["set-property", "x"], 2, "required: DIRECTIVE=VALUE"),
        (["set-property", "x", "MemoryMax"], 125, "is not an assignment"),
        (["set-property", "x", "Nonsense=1"], 125, "no such directive"),
        (["set-property", "x", "MemoryMax=12x"], 125, "is not a size"),
        (["list", "--manager", "none"], 2, "invalid choice"),
        (["top", "--sort", "age"], 2, "invalid choice"),
        (["top", "-d", "0"], 2, "invalid"),
        (["wait", "--timeout", "-", "x"], 2, "invalid float"),
    ],
)
def test_wrong_input(sdbox: Sdbox, words: list[str], status: int, text: str) -> None:
    done = sdbox.call(*words)
    assert done.status == status
    assert text in done.err
    assert len(done.err.splitlines()) == 1
    assert done.out == ""


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("script", "status", "message"),
    [
        ("read line; exit 0", 0, "Job exited with status 0."),
        ("read line; exit 7", 7, "Job exited with status 7."),
        ("read line; kill -TERM $$", 143, "Job was ended by signal SIGTERM."),
    ],
)
def test_wait(sdbox: Sdbox, script: str, status: int, message: str) -> None:
    job = started(sdbox, f"echo up; {script}")
    process = waiting(sdbox, job.id)
    job.send(b"\n")
    assert ended(process) == (status, f"{job.id}: {message}\n", "")
    job.end()


def test_wait_for_one_that_is_killed(sdbox: Sdbox) -> None:
    job = started(sdbox)
    process = waiting(sdbox, job.id, "--json")
    quiet(sdbox, "kill", job.id)
    status, out, err = ended(process)
    assert (status, err) == (137, "")
    report = json.loads(out)
    assert (report["reason"], report["signal"]) == ("killed", 9)
    job.end()


def test_wait_for_one_that_passes_a_limit(sdbox: Sdbox) -> None:
    job = started(sdbox, "echo up; read line; while :; do :; done", "--cpu-time=300ms")
    process = waiting(sdbox, job.id)
    job.send(b"\n")
    status, out, _ = ended(process)
    assert status != 0
    assert "CPU time limit" in out
    job.end()


def test_wait_writes_the_same_report(sdbox: Sdbox) -> None:
    own, theirs = sdbox.directory / "own.json", sdbox.directory / "theirs.json"
    job = started(sdbox, "echo up; read line; exit 3", f"--report={own}")
    process = waiting(sdbox, job.id, "--quiet", f"--report={theirs}")
    job.send(b"\n")
    assert ended(process) == (3, "", "")
    job.end()
    assert json.loads(theirs.read_text()) == json.loads(own.read_text())


def test_wait_for_several(sdbox: Sdbox) -> None:
    jobs = [started(sdbox, f"echo up; read line; exit {n}") for n in (0, 4, 5)]
    process = waiting(sdbox, *(job.id for job in jobs))
    for job in reversed(jobs):
        job.send(b"\n")
        job.end()
    status, out, _ = ended(process)
    assert status == 4
    assert sorted(out.splitlines()) == [
        f"{job.id}: Job exited with status {n}." for job, n in zip(jobs, (0, 4, 5), strict=True)
    ]


def test_wait_for_no_longer(sdbox: Sdbox) -> None:
    job = started(sdbox)
    done = sdbox.call("wait", "--timeout=0.1", job.id)
    assert (done.status, done.out) == (124, "")
    assert job.end().status == 0


def test_wait_for_one_whose_supervisor_dies(sdbox: Sdbox) -> None:
    job = started(sdbox)
    process = waiting(sdbox, job.id)
    job.signal(signal.SIGKILL)
    status, out, err = ended(process)
    assert (status, out) == (125, "")
    assert "nobody has left word" in err
    job.end()


def test_logs(sdbox: Sdbox) -> None:
    job = started(sdbox, WAITS, "--description=A job to read about")
    job.end()
    sdbox.inside("journalctl", "--sync")
    for name in (job.id, job.unit, f"{job.id}*"):
        assert "A job to read about" in sdbox.call("logs", name).out
    entries = sdbox.call("logs", "-n", "1", "-o", "json", job.id).out.splitlines()
    assert len(entries) == 1
    assert json.loads(entries[0])["MESSAGE"]
    assert sdbox.call("logs", job.id, "--", "--output=cat", "--lines=1").out.count("\n") == 1
    assert sdbox.call("logs", "-o", "nonsense", job.id).status != 0


def test_logs_follow(sdbox: Sdbox) -> None:
    job = started(sdbox)
    process = subprocess.Popen(
        [*sdbox.command, "logs", "--follow", "--output=cat", job.id], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, b"")
    assert any(b"Started" in line or b"starts" in line for line in lines)
    quiet(sdbox, "freeze", job.id)
    assert any(b"frozen" in line for line in lines)
    process.terminate()
    process.communicate(timeout=SECONDS)
    quiet(sdbox, "kill", job.id)
    job.end()


def test_description_is_changed(sdbox: Sdbox) -> None:
    job = started(sdbox, WAITS, "-p", "LimitNOFILE=100")
    quiet(sdbox, "set-property", job.id, "Description=Another name")
    one = status_of(sdbox, job)
    assert one["description"] == "Another name"
    assert one["box"] == {"LimitNOFILE": "100", "Description": "Another name"}
    assert job.end().status == 0


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("User=nobody", "it can't be changed while the job runs"),
        ("RuntimeMaxSec=1h", "it can't be changed while the job runs"),
        ("CPUTimeMaxSec=1h", "it can't be changed while the job runs"),
    ],
)
def test_what_can_not_be_changed(sdbox: Sdbox, assignment: str, text: str) -> None:
    job = started(sdbox)
    done = sdbox.call("set-property", job.id, assignment)
    assert done.status == 125
    assert text in done.err
    assert job.end().status == 0


@pytest.mark.needs_no_controller("memory")
def test_a_watched_limit_is_not_changed(sdbox: Sdbox) -> None:
    job = started(sdbox, WAITS, "--memory=256M")
    done = sdbox.call("set-property", job.id, "MemoryMax=1G")
    assert done.status == 125
    assert "kept by the job's supervisor" in done.err
    assert job.end().status == 0


@pytest.mark.needs_controller("memory")
def test_a_limit_is_changed(sdbox: Sdbox) -> None:
    job = started(sdbox, WAITS, "--memory=256M")
    quiet(sdbox, "set-property", job.id, "MemoryMax=128M", "MemoryHigh=64M")
    cgroup = sdbox.cgroup(job.id)
    assert (cgroup / "memory.max").read_text() == f"{128 << 20}\n"
    assert (cgroup / "memory.high").read_text() == f"{64 << 20}\n"
    assert (cgroup / "memory.swap.max").read_text() == "0\n"
    shown = sdbox.inside("systemctl", "show", job.unit, "--property=MemoryMax", "--value").out
    assert shown == f"{128 << 20}\n"
    quiet(sdbox, "set-property", job.id, "MemoryMax=infinity")
    assert (cgroup / "memory.max").read_text() == "max\n"
    assert status_of(sdbox, job)["box"]["MemoryMax"] == "infinity"
    assert job.end().status == 0


@pytest.mark.needs_controller("memory")
def test_a_limit_without_one_before_is_without_swap(sdbox: Sdbox) -> None:
    job = started(sdbox)
    quiet(sdbox, "set-property", job.id, "MemoryMax=128M", "TasksMax=50")
    cgroup = sdbox.cgroup(job.id)
    assert (cgroup / "memory.swap.max").read_text() == "0\n"
    assert (cgroup / "pids.max").read_text() == "50\n"
    assert job.end().status == 0


@pytest.mark.needs_controller("memory")
def test_a_limit_that_was_changed_is_the_one_that_is_told_of(sdbox: Sdbox) -> None:
    hog = "echo up; read line; exec /usr/bin/python3 -c 'bytearray(500 << 20)'"
    job = started(sdbox, hog, "--memory=256M")
    quiet(sdbox, "set-property", job.id, "MemoryMax=64M")
    process = waiting(sdbox, job.id, "--json")
    job.send(b"\n")
    _, out, _ = ended(process)
    job.end()
    report = json.loads(out)
    assert report["reason"] == "memory"
    assert report["memory_limit_bytes"] == 64 << 20
    assert "memory limit of 64 megabytes" in report["message"]


@pytest.mark.needs_embedded
@pytest.mark.parametrize("unit_type", ["scope"])
@pytest.mark.parametrize(
    ("words", "status", "out"),
    [
        ("list", 0, ""),
        ("list --json", 0, "[]\n"),
        ("usage", 0, ""),
        ("top --batch -n1 -d0.1", 0, "\n"),
        ("show x", 4, ""),
        ("freeze x", 4, ""),
        ("wait x", 4, ""),
        ("logs x", 125, ""),
        ("complete 2 sdbox freeze x", 0, "\n"),
    ],
)
def test_where_no_manager_runs(sdbox: Sdbox, words: str, status: int, out: str) -> None:
    """None is booted for it."""
    hidden = 'mount -t tmpfs tmpfs /run/sdbox && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", *sdbox.command, *words.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert len(done.stderr.splitlines()) == (1 if status else 0)


def test_a_job_manages_none(sdbox: Sdbox) -> None:
    done = sdbox.run("--", *sdbox.command, "list")
    assert done.status == 125
    assert "is in a box itself" in done.err


async def test_the_api(job_site: Site, new_id: Callable[[], str], unit_type: str) -> None:
    async with package.Launcher() as launcher, package.Jobs() as jobs:
        kind: Any = unit_type
        job = await launcher.start(["cat"], id=new_id(), stdin=_pipe(), unit_type=kind)
        (seen,) = await jobs.find(job.id)
        assert (seen.unit, seen.state) == (job.unit, "running")
        assert (await launcher.jobs.find(job.unit))[0].job == job.id
        await job.freeze()
        await jobs.freeze(seen)
        assert (await jobs.find(job.id))[0].state == "frozen"
        await jobs.thaw(job.id)
        await job.thaw()
        assert (await jobs.find(job.id))[0].state == "running"
        assert (await jobs.usage(seen)).tasks == job.usage().tasks
        await job.set_property(Box(Description="Another"))
        assert (await jobs.find(job.id))[0].description == "Another"
        end = asyncio.create_task(jobs.wait(seen))
        await job.signal_all(signal.SIGTERM)
        report = await end
        assert report == (await job.wait()).to_json()
        with pytest.raises(NoSuchJob):
            job.usage()
        with pytest.raises(NoSuchJob):
            await jobs.freeze(job.id)
        with pytest.raises(NoSuchJob):
            await jobs.freeze(seen)


async def test_the_api_stops(job_site: Site, new_id: Callable[[], str], unit_type: str) -> None:
    async with package.Launcher() as launcher:
        kind: Any = unit_type
        job = await launcher.start(["cat"], id=new_id(), stdin=_pipe(), unit_type=kind)
        await job.stop()
        assert (await job.wait()).signal == signal.SIGTERM


def _pipe() -> int:
    """What is never written to: the other end goes to the job, too, and both with this process."""
    reader, _ = os.pipe()
    return reader


@pytest.mark.parametrize("unit_type", ["scope"])
async def test_a_thousand_by_one_call(
    job_site: Site, sdbox: Sdbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    call = bus.Bus.call

    async def noted(self: bus.Bus, **arguments: Any) -> list[Any]:
        calls.append(arguments["member"])
        return await call(self, **arguments)

    count, prefix = times(1000, 100), sdbox.new_id()
    async with scopes(job_site.endpoint, prefix, count) as units, package.Jobs() as jobs:
        monkeypatch.setattr(bus.Bus, "call", noted)
        found = await jobs.find(f"{prefix}-*")
        assert calls == ["ListUnitsByPatterns"]
        assert [one.unit for one in found] == units
        assert {one.memo and one.memo.command for one in found} == {("sleep", "infinity")}
        assert {one.tasks for one in found} == {1}
        lines = sdbox.call("list", f"{prefix}-*").out.splitlines()
        assert len(lines) == count


@pytest.mark.parametrize("unit_type", ["scope"])
async def test_hundreds_at_once(job_site: Site, sdbox: Sdbox) -> None:
    count, prefix = times(600, 60), sdbox.new_id()
    async with scopes(job_site.endpoint, prefix, count):
        process = await asyncio.to_thread(waiting, sdbox, f"{prefix}-*", count=count)
        for verb in ("freeze", "thaw", "freeze", "stop"):
            await asyncio.to_thread(quiet, sdbox, verb, f"{prefix}-*")
        assert sdbox.call("list", f"{prefix}-*").status == 4
        status, out, err = await asyncio.to_thread(ended, process)
        # They had no supervisor.
        assert (status, out) == (125, "")
        assert len(err.splitlines()) == count


UNINTERRUPTIBLE = """
import ctypes, fcntl, mmap, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
# userfaultfd(2), ioctl_userfaultfd(2): pages that nobody ever brings. mlock(2) sleeps for them.
fd = libc.syscall(ctypes.c_long(number), os.O_CLOEXEC)
assert fd >= 0, os.strerror(ctypes.get_errno())
fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
region = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(region))
fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack("QQQQ", address, 4096, 1, 0)))
print("up", flush=True)
libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(4096))
"""


def test_a_freeze_that_can_not_finish(sdbox: Sdbox) -> None:
    job = sdbox.start("--", "/usr/bin/python3", "-c", UNINTERRUPTIBLE)
    assert job.line() == "up"
    sleeper = sdbox.members(job.id)[-1]
    wait_until(lambda: state_of(sleeper) == "D")
    done = sdbox.call("freeze", "--timeout=0.5", job.id)
    assert done.status == 125
    assert "not frozen after 0.5 s" in done.err
    assert f"(PID {sleeper})" in done.err
    assert status_of(sdbox, job)["state"] == "freezing"
    quiet(sdbox, "kill", job.id)
    assert job.end().status == -signal.SIGKILL


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
