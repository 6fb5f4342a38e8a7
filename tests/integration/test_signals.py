"""Signals on their way from whoever sends them to `sdbox run`, to the payload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Running, Sdbox

SECONDS = seconds(30)
FORWARDED = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "CONT"]

# Tells of each signal, and none can come where it would not be seen, as in a shell's `trap`.
WAITER = """
import signal, sys
numbers = {signal.Signals["SIG" + name] for name in sys.argv[1:]}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
print("up", flush=True)
while True:
    print(signal.sigwait(numbers).name, flush=True)
"""


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    """Every test here is for both: the same box, whoever starts the job."""
    kind: str = request.param
    return kind


@pytest.fixture(params=[(), ("--pid-namespace",)], ids=["shared-pids", "own-pids"])
def payload(sdbox: Sdbox, request: pytest.FixtureRequest) -> Running:
    """A payload that tells of each signal."""
    job = sdbox.start(*request.param, "--", sys.executable, "-ISc", WAITER, *FORWARDED)
    assert job.line() == "up"
    return job


def test_each_is_passed_on_and_comes_once(payload: Running) -> None:
    # Twice around, so that one too many would be seen before the next.
    for name in FORWARDED * 2:
        payload.signal(signal.Signals[f"SIG{name}"])
        assert payload.line() == f"SIG{name}"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_a_payload_that_does_not_mind_ends_by_it(sdbox: Sdbox, name: str) -> None:
    job = sdbox.start_sh("echo up; exec sleep 600")
    assert job.line() == "up"
    job.signal(signal.Signals[f"SIG{name}"])
    assert job.end().status == -signal.Signals[f"SIG{name}"]


def test_it_goes_to_the_payload_alone(sdbox: Sdbox) -> None:
    """As from kill(1), and not to the whole tree: the payload knows what its children need."""
    child = 'trap "echo child" TERM; echo up; read line; echo end; kill -USR1 $PPID'
    program = f"import subprocess; child = subprocess.Popen(['sh', '-c', {child!r}])\n{WAITER}"
    job = sdbox.start("--", sys.executable, "-ISc", program, "TERM", "USR1")
    assert {job.line(), job.line()} == {"up"}
    job.signal(signal.SIGTERM)
    assert job.line() == "SIGTERM"
    job.send(b"\n")
    assert job.line() == "end"
    assert job.line() == "SIGUSR1"


def test_a_stop_and_a_continuation(sdbox: Sdbox) -> None:
    # A process group that its parent could continue: any other the kernel does not stop.
    job = sdbox.start("--", "cat")
    job.send(b"one\n")
    assert job.line() == "one"
    _, cat = sdbox.members(job.id)
    job.signal(signal.SIGTSTP)
    look_until(lambda: _state(cat) == "T")
    # No shell's job, so nobody would continue sdbox: the job must not be without it.
    job.send(b"two\n")
    job.signal(signal.SIGCONT)
    assert job.line() == "two"
    assert job.end().status == 0


def test_a_payload_that_minds_a_stop_goes_on(sdbox: Sdbox) -> None:
    """And so does sdbox, or the next signal would not arrive."""
    job = sdbox.start("--", sys.executable, "-ISc", WAITER, "TSTP", "USR1")
    assert job.line() == "up"
    for name in ("SIGTSTP", "SIGUSR1", "SIGTSTP"):
        job.signal(signal.Signals[name])
        assert job.line() == name


def test_signals_before_the_payload_runs_are_not_lost(sdbox: Sdbox) -> None:
    """Sent as soon as they would not end Python's start: the job ends by it, or never starts."""
    job = sdbox.start_sh("exec sleep 600")
    look_until(lambda: _blocks(job.pid, signal.SIGTERM))
    job.signal(signal.SIGTERM)
    assert job.end().status == -signal.SIGTERM


def test_a_signal_in_the_middle_of_the_launch(sdbox: Sdbox) -> None:
    """Whenever it comes, sdbox ends and nothing stays: see the check after each test."""
    for number in range(12):
        job = sdbox.start_sh("exec sleep 600", "--private-tmp")
        try:
            job.process.wait(timeout=number * 0.02)
        except subprocess.TimeoutExpired:
            job.signal(signal.SIGTERM)
        assert job.end().status == -signal.SIGTERM


def look_until(is_so: Callable[[], bool]) -> None:
    """Look at what nothing tells of, until it is so."""
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        os.sched_yield()


def _blocks(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigBlk:\t")[1].split()[0], 16) >> number - 1 & 1)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
