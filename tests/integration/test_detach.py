"""`--detach`: a job that goes on without whoever started it, and what is known of its end."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from sdbox.errors import LaunchFailed
from sdbox.launch.detach import supervisor_unit
from sdbox.launcher import Launcher
from tests.conftest import MARK, SECONDS, wait_for_units
from tests.pace import seconds
from tests.waiting import wait_until, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sdbox.manager import Manager
    from tests.conftest import Outcome, Sdbox


@pytest.fixture
def unit_type() -> str:
    return "service"


class Detached:
    """Detached jobs of one test."""

    def __init__(self, sdbox: Sdbox, directory: Path) -> None:
        self.sdbox = sdbox
        self.directory = directory

    def start(self, *words: str, status: int = 0) -> str:
        """Start a detached job; return its id."""
        job = self.sdbox.new_id()
        done = self.asked(job, *words)
        assert (done.status, done.err) == (status, "")
        assert done.out == f"{job}\n"
        return job

    def asked(self, job: str, *words: str) -> Outcome:
        environment = {**os.environ, MARK: job}
        return self.sdbox.call("run", "--detach", f"--id={job}", *words, env=environment)

    def ended(self, job: str, gate: Path) -> dict[str, object]:
        """Wait for a job at a gate, open that, and return the report, and the status of `wait`."""
        place = self.directory / f"{job}.json"
        waiter = waiting(self.sdbox, job, f"--report={place}")
        fd = os.open(gate, os.O_RDWR)
        os.write(fd, b"\n")
        waiter.communicate(timeout=SECONDS)
        os.close(fd)
        account: dict[str, object] = json.loads(place.read_text())
        return account | {"status": waiter.returncode}


@pytest.fixture
async def detached(sdbox: Sdbox, tmp_path: Path, job_manager: Manager) -> AsyncIterator[Detached]:
    jobs = Detached(sdbox, tmp_path)
    yield jobs
    for job in sdbox.ids:
        await job_manager.destroy(sdbox.unit(job), timeout=SECONDS)
    # The supervisors end with their jobs, by themselves.
    await wait_for_units([supervisor_unit(job) for job in sdbox.ids])


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A named pipe that a job waits at."""
    os.mkfifo(place := tmp_path / "gate")
    return place


def test_it_goes_on_and_who_waits_learns_all(detached: Detached, gate: Path) -> None:
    job = detached.start("--private-ipc", "--", "sh", "-c", f"read x <{gate}; exit 7")
    listed = detached.sdbox.call("list", "--json", job)
    assert [one["job"] for one in json.loads(listed.out)] == [job]
    account = detached.ended(job, gate)
    assert (account["status"], account["reason"], account["exit_code"]) == (7, "exited", 7)
    assert (account["job"], account["unit"]) == (job, detached.sdbox.unit(job))
    assert isinstance(account["cpu_user_seconds"], float)


def test_its_output_is_in_the_journal_between_its_events(detached: Detached, gate: Path) -> None:
    job = detached.start("--", "sh", "-c", f"echo to stdout; echo to stderr >&2; read x <{gate}")
    assert detached.ended(job, gate)["status"] == 0
    shown = detached.sdbox.call("logs", job, "-o", "cat").out.splitlines()
    unit = detached.sdbox.unit(job)
    first, *others = [line for line in shown if line.startswith(("to ", f"{unit}: Job"))]
    assert first.startswith(f"{unit}: Job starts: ")
    assert others[:2] == ["to stdout", "to stderr"]
    assert others[2].startswith(f"{unit}: Job exited with status 0.")
    assert len(others) == 3


def test_output_to_a_file(detached: Detached, tmp_path: Path) -> None:
    place = tmp_path / "output"
    place.write_text("before\n")
    job = detached.start(f"--output=append:{place}", "--", "sh", "-c", "echo one; echo two >&2")
    _wait_gone(detached, job)
    assert place.read_text() == "before\none\ntwo\n"


def test_a_report_of_the_launch_s_own(detached: Detached, tmp_path: Path) -> None:
    place = tmp_path / "report"
    job = detached.start(f"--report={place}", "--", "sh", "-c", "exit 3")
    _wait_gone(detached, job)
    account = json.loads(place.read_text())
    assert (account["job"], account["exit_code"]) == (job, 3)


def test_it_has_what_its_caller_has(detached: Detached, tmp_path: Path) -> None:
    place = tmp_path / "output"
    script = 'pwd; umask; echo "$ODD"; cat; grep -c . /proc/self/cgroup >/dev/null; ls /proc/$$/exe'
    job = detached.sdbox.new_id()
    done = detached.sdbox.call(
        *("run", "--detach", f"--id={job}", f"--output={place}", "--", "sh", "-c", script),
        env={**os.environ, MARK: job, "ODD": "a  b"},
        cwd=tmp_path,
        umask=0o27,
    )
    assert done.status == 0
    _wait_gone(detached, job)
    shell = place.read_text().split("\n")[-2]
    assert place.read_text() == f"{tmp_path}\n0027\na  b\n{shell}\n"
    assert shell.startswith("/proc/")


def test_the_callers_mounts_are_the_jobs(detached: Detached, tmp_path: Path) -> None:
    """Also when the caller, in a mount namespace of its own, is no more."""
    place = tmp_path / "output"
    script = 'mount -t tmpfs none /mnt && echo here > /mnt/file && exec "$@"'
    detached.sdbox.command = (
        *("unshare", "--mount", "sh", "-c", script, "sh"),
        *detached.sdbox.command,
    )
    job = detached.start(f"--output={place}", "--", "sh", "-c", "sleep 0.3; cat /mnt/file")
    _wait_gone(detached, job)
    assert place.read_text() == "here\n"


def test_it_survives_its_callers_whole_session(detached: Detached, gate: Path) -> None:
    job = detached.sdbox.new_id()
    payload = ("sh", "-c", f"read x <{gate}")
    words = [*detached.sdbox.command, "run", "--detach", f"--id={job}", "--", *payload]
    caller = subprocess.Popen(
        ["sh", "-c", '"$@"; read line', "sh", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, MARK: job},
    )
    assert caller.stdout is not None
    assert caller.stdout.readline() == f"{job}\n".encode()
    os.killpg(caller.pid, signal.SIGKILL)
    caller.communicate(timeout=SECONDS)
    assert detached.ended(job, gate)["status"] == 0


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["no-such-program"], 127, "'no-such-program': No such file or directory"),
        (["/etc/passwd"], 126, "'/etc/passwd': Permission denied"),
    ],
)
def test_a_launch_that_fails(
    detached: Detached, tmp_path: Path, words: list[str], status: int, text: str
) -> None:
    job = detached.sdbox.new_id()
    done = detached.asked(job, f"--report={tmp_path}/report", "--", *words)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"sdbox: {text}")
    assert done.err.count("\n") == 1
    account = json.loads((tmp_path / "report").read_text())
    assert (account["job"], account["reason"]) == (job, "launch-failed")


def test_an_id_that_is_taken(detached: Detached, gate: Path) -> None:
    job = detached.start("--", "sh", "-c", f"read x <{gate}; exit 4")
    for options in ([], ["--service"], ["--detach"]):
        again = detached.sdbox.call("run", *options, f"--id={job}", "--", "true")
        assert again.status == 125
        assert job in again.err
    assert detached.ended(job, gate)["status"] == 4


@pytest.mark.needs_no_controller("memory")
def test_limits_that_are_watched_are_kept(detached: Detached, tmp_path: Path) -> None:
    report = tmp_path / "report"
    job = detached.sdbox.new_id()
    hog = "b = bytearray(300 << 20); time.sleep(600)"
    command = ("--memory=64M", f"--report={report}", "--", "python3", "-c", f"import time; {hog}")
    assert detached.asked(job, *command).out == f"{job}\n"
    _wait_gone(detached, job)
    account = json.loads(report.read_text())
    assert account["reason"] == "memory"
    assert account["message"].startswith("Job has gone over memory limit of 64 megabytes.")


def test_a_wall_time_limit(detached: Detached, tmp_path: Path) -> None:
    report = tmp_path / "report"
    limit = f"--wall={seconds(0.3)}s"
    job = detached.start(limit, f"--report={report}", "--", "sleep", "600")
    _wait_gone(detached, job)
    assert json.loads(report.read_text())["reason"] == "wall-time"


@pytest.mark.parametrize(
    ("verb", "reason"),
    [(["kill"], "killed"), (["stop"], "signal"), (["kill", "-s", "INT"], "signal")],
)
def test_it_is_ended_by_the_verbs(
    detached: Detached, tmp_path: Path, verb: list[str], reason: str
) -> None:
    report = tmp_path / "report"
    job = detached.start("--private-tmp", f"--report={report}", "--", "sleep", "600")
    assert detached.sdbox.call("freeze", job).status == 0
    assert "frozen" in detached.sdbox.call("show", job).out
    if verb == ["kill", "-s", "INT"]:
        assert detached.sdbox.call("thaw", job).status == 0
    assert detached.sdbox.call(*verb, job).status == 0
    _wait_gone(detached, job)
    assert json.loads(report.read_text())["reason"] == reason


async def test_through_the_launcher(detached: Detached, gate: Path, tmp_path: Path) -> None:
    job = detached.sdbox.new_id()
    place = tmp_path / "output"
    async with Launcher() as launcher:
        script = f"echo up; read x <{gate}; exit 6"
        words = ["sh", "-c", script]
        assert await launcher.detach(words, id=job, output=str(place)) == job
        with pytest.raises(LaunchFailed) as caught:
            await launcher.detach(["no-such-program"], id=detached.sdbox.new_id())
        assert caught.value.exit_status == 127
    # The program has gone on, and the job as well.
    account = await asyncio.to_thread(detached.ended, job, gate)
    assert account["status"] == 6
    assert place.read_text() == "up\n"


def test_a_supervisor_that_is_stopped_stops_the_job_first(
    detached: Detached, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    script = "trap 'exit 9' TERM; while :; do sleep 1; done"
    job = detached.start(f"--report={report}", "--", "sh", "-c", script)
    assert detached.sdbox.inside("systemctl", "stop", supervisor_unit(job)).status == 0
    assert not detached.sdbox.cgroup(job).exists()
    assert json.loads(report.read_text())["exit_code"] == 9


def test_a_supervisor_that_is_killed_takes_the_job_along(detached: Detached) -> None:
    job = detached.start("--private-tmp", "--pid-namespace", "--", "sh", "-c", "sleep 600 & wait")
    pidfds = [os.pidfd_open(pid) for pid in detached.sdbox.members(job)]
    unit = supervisor_unit(job)
    assert detached.sdbox.inside("systemctl", "kill", "--signal=KILL", unit).status == 0
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], SECONDS)[0]
        os.close(pidfd)
    _wait_gone(detached, job)


def _wait_gone(detached: Detached, job: str) -> None:
    """Wait for the end of a job, and of its supervisor: then all that it writes is written."""
    supervisor = detached.sdbox.cgroup(job).parent.parent / "system.slice" / supervisor_unit(job)
    wait_until(lambda: not detached.sdbox.cgroup(job).exists() and not supervisor.exists())
