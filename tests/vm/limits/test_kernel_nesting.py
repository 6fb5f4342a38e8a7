"""Boxes inside of a box where the kernel keeps the limits: what counts is that of the outer one."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

MEGABYTE = 1 << 20
HOG = "b = bytearray(300 << 20); print('has it all')"


@pytest.fixture(scope="module", params=["system", "embedded"])
def manager(request: pytest.FixtureRequest) -> Iterator[str]:
    """The option for the machine's systemd, and for one of sdbox's own below it."""
    yield f"--manager={request.param}"
    if request.param == "embedded":
        embedded.stop()


def inner(sdbox: Sdbox, *words: str) -> list[str]:
    return [*sdbox.command, "run", *words]


def gone(sdbox: Sdbox, job: str) -> bool:
    return not list(Path("/sys/fs/cgroup").rglob(f"*{job.replace('-', '*')}*.slice"))


# Every pair of the three, in half of the cases.
@pytest.mark.parametrize(
    ("manager", "unit_type", "pids"),
    [
        ("system", "scope", ["--pid-namespace"]),
        ("system", "service", []),
        ("embedded", "scope", []),
        ("embedded", "service", ["--pid-namespace"]),
    ],
    indirect=["manager"],
)
def test_three_deep_the_outer_limit_counts(sdbox: Sdbox, manager: str, pids: list[str]) -> None:
    report = sdbox.directory / "inner.json"
    hog = inner(sdbox, "--id=c", "--memory=1G", *pids, "--", sys.executable, "-ISc", HOG)
    middle = inner(sdbox, "--id=b", "--nestable", "--memory=2G", f"--report={report}", *pids)
    done = sdbox.run(
        *(manager, "--nestable", "--memory=100M", *pids, "--", *middle, "--", *hog), report=True
    )
    assert "has it all" not in done.out
    account = done.account
    assert account["reason"] == "memory"
    assert account["memory_limit_bytes"] == 100 * MEGABYTE
    assert account["enforcement"]["MemoryMax"] == "kernel"
    assert account["memory_peak_bytes"] == pytest.approx(100 * MEGABYTE, rel=0.05)
    assert "Job has gone over memory limit of 100 megabytes." in account["message"]
    # The one inside may have come to tell its own end, or was killed before.
    told = report.read_text()
    assert not told or "limit of 2048" not in json.loads(told)["message"]
    assert gone(sdbox, done.id)


def test_a_limit_inside_is_kept_and_told_there(sdbox: Sdbox, manager: str) -> None:
    report = sdbox.directory / "inner.json"
    hog = inner(sdbox, "--memory=64M", f"--report={report}", "--", sys.executable, "-ISc", HOG)
    done = sdbox.run(manager, "--nestable", "--memory=512M", "--", *hog, report=True)
    assert (done.status, done.account["reason"]) == (-signal.SIGKILL, "signal")
    account = json.loads(report.read_text())
    assert (account["reason"], account["manager"]) == ("memory", "nested")
    assert "limit of 64 megabytes" in account["message"]
    assert done.account["oom_kills"] == 0
    assert gone(sdbox, done.id)


def test_tasks_and_cpu_are_the_outers(sdbox: Sdbox, manager: str) -> None:
    script = "p=$(sed -n 's/^0:://p' /proc/self/cgroup); echo $p"
    words = inner(sdbox, "--tasks=1000", "--cpu-quota=300%", "--", "sh", "-c", f"{script}; cat")
    job = sdbox.start(manager, "--nestable", "--tasks=60", "--cpu-quota=50%", "--", *words)
    scope = Path("/sys/fs/cgroup" + job.line())
    assert (scope / "pids.max").read_text() == "1000\n"
    assert (scope.parent / "pids.max").read_text() == "60\n"
    assert (scope.parent / "cpu.max").read_text() == "50000 100000\n"
    assert job.end().status == 0


def test_frozen_it_is_killed_without_a_supervisor(sdbox: Sdbox, manager: str) -> None:
    words = inner(sdbox, "--", "sh", "-c", "echo up; sleep 1000")
    job = sdbox.start(manager, "--nestable", "--", *words)
    assert job.line() == "up"
    kind = manager.removeprefix("--manager=")
    assert sdbox.call("freeze", f"--manager={kind}", job.id).status == 0
    assert sdbox.call("kill", f"--manager={kind}", job.id).status == 0
    assert job.end().status == -signal.SIGKILL
    assert gone(sdbox, job.id)
