"""Limits: kept by the kernel, by watching where it can't, and refused where nobody can."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.pace import seconds

if TYPE_CHECKING:
    from tests.conftest import Sdbox

# Takes so many megabytes, one after the other; with a second argument, it then waits with them.
HOG = """
import signal, sys
hog = [bytes([1]) * (1 << 20) for _ in range(int(sys.argv[1]))]
if sys.argv[2:]:
    signal.pause()
"""


def test_a_wall_time_limit(sdbox: Sdbox) -> None:
    done = sdbox.sh("exec sleep 600", "--wall=300ms", report=True)
    assert done.status == -signal.SIGTERM
    account = done.account
    assert account["reason"] == "wall-time"
    assert account["message"] == "Job has gone over wall time limit of 0.3 seconds."
    # It counts from the start of the scope, a little before the payload's.
    assert 0 < account["wall_seconds"] < seconds(10)
    assert account["enforcement"]["RuntimeMaxSec"] == "manager"
    assert "wall time" in done.err


def test_a_wall_time_limit_of_a_payload_that_does_not_mind(sdbox: Sdbox) -> None:
    script = "trap '' TERM; while :; do sleep 600; done"
    done = sdbox.sh(script, "--wall=300ms", "--stop-timeout=200ms", report=True)
    assert done.status == -signal.SIGKILL
    assert done.account["reason"] == "wall-time"


def test_a_job_within_its_wall_time(sdbox: Sdbox) -> None:
    done = sdbox.sh("exit 2", "--wall=1h", report=True)
    assert (done.status, done.account["reason"]) == (2, "exited")


@pytest.mark.needs_no_controller("memory")
def test_a_memory_limit_is_watched_and_says_so(sdbox: Sdbox) -> None:
    hog = ("--", sys.executable, "-ISc", HOG, "100", "wait")
    done = sdbox.run("--memory=64M", *hog, report=True)
    assert done.status == -signal.SIGKILL, done.err
    account = done.account
    assert account["reason"] == "memory"
    assert account["enforcement"]["MemoryMax"] == "watch"
    assert account["memory_limit_bytes"] == 64 << 20
    assert account["memory_peak_bytes"] > 64 << 20
    assert account["message"].startswith("Job has gone over memory limit of 64 megabytes. ")
    assert account["message"] in done.err
    assert done.err.count("Job has gone over memory limit") == 1


@pytest.mark.needs_no_controller("memory")
def test_a_job_within_its_memory_limit(sdbox: Sdbox) -> None:
    done = sdbox.run("--memory=256M", "--", sys.executable, "-ISc", HOG, "20", report=True)
    assert (done.status, done.account["reason"]) == (0, "exited")


@pytest.mark.parametrize(
    ("option", "controller"),
    [
        pytest.param(option, controller, marks=pytest.mark.needs_no_controller(controller))
        for option, controller in [
            ("--memory-high=64M", "memory"),
            ("--swap=1G", "memory"),
            ("--cpu-quota=50%", "cpu"),
            ("--cpu-weight=50", "cpu"),
            ("--allowed-cpus=0", "cpuset"),
            ("-pIOReadBandwidthMax=/ 1M", "io"),
        ]
    ],
)
def test_what_nobody_can_keep_is_refused(sdbox: Sdbox, option: str, controller: str) -> None:
    done = sdbox.run(option, "--", "true", report=True)
    assert done.status == 125
    assert f"no {controller} controller" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "file", "contents"),
    [
        pytest.param(option, file, contents, marks=pytest.mark.needs_controller(controller))
        for option, controller, file, contents in [
            ("--memory=64M", "memory", "memory.max", f"{64 << 20}\n"),
            ("--memory=64M", "memory", "memory.swap.max", "0\n"),
            ("--memory-high=32M", "memory", "memory.high", f"{32 << 20}\n"),
            ("--tasks=20", "pids", "pids.max", "20\n"),
            ("--cpu-quota=50%", "cpu", "cpu.max", "50000 100000\n"),
            ("--cpu-weight=50", "cpu", "cpu.weight", "50\n"),
            ("--allowed-cpus=0", "cpuset", "cpuset.cpus", "0\n"),
        ]
    ],
)
def test_the_kernel_has_the_limit(sdbox: Sdbox, option: str, file: str, contents: str) -> None:
    job = sdbox.start_sh("echo up; read line", option)
    assert job.line() == "up"
    assert (sdbox.cgroup(job.id) / file).read_text() == contents
    job.send(b"\n")
    assert job.end().status == 0


@pytest.mark.needs_controller("memory")
def test_the_kernels_memory_limit_is_told(sdbox: Sdbox) -> None:
    done = sdbox.run("--memory=64M", "--", sys.executable, "-ISc", HOG, "200", report=True)
    account = done.account
    assert account["reason"] == "memory"
    assert account["enforcement"]["MemoryMax"] == "kernel"
    assert account["oom_kills"] >= 1
    assert account["memory_peak_bytes"] == pytest.approx(64 << 20, rel=0.05)
    assert done.err.count("Job has gone over memory limit of 64 megabytes.") == 1


@pytest.mark.needs_controller("pids")
def test_the_kernels_task_limit_holds(sdbox: Sdbox) -> None:
    done = sdbox.sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 600 & done", "--tasks=5")
    assert done.status != 0
    assert "fork" in done.err
