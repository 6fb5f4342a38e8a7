"""From what was seen of a job's end to the account of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, get_args

import pytest

from sdbox.box import Box
from sdbox.host.facts import Host
from sdbox.kernel.kmsg import Victim
from sdbox.plan.planner import Caller, make_plan
from sdbox.record import replaced
from sdbox.result import REPORT_FIELDS, Reason, Result, Usage
from sdbox.verdict import Ending, launch_failed, result
from sdbox.watch.limits import Excess

if TYPE_CHECKING:
    from sdbox.plan import Plan

MIB = 1 << 20
KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)
CORE_DUMPED = 0x80


def exited(code: int) -> int:
    return code << 8


def plan(box: Box) -> Plan:
    return make_plan(
        job="j1",
        command=("./train", "--fast"),
        box=box,
        host=Host(
            manager="system",
            controllers=frozenset({"memory"}),
            memory_total_bytes=1 << 34,
            tasks_total=1000,
        ),
        credentials=None,
        caller=Caller(environment={}, working_directory="/", home="/root"),
    )


def ending(status: int | None, **other: object) -> Ending:
    usual = Ending(status=status, started_at=100.0, ended_at=103.5, wall_seconds=3.25)
    return replaced(usual, **other)


LIMITED = Box(MemoryMax="64M", RuntimeMaxSec="2.5s")
GOES_ON = Box(MemoryMax="64M", OOMPolicy="continue")
NO_KILLS = Usage(oom_kills=0, memory_peak_bytes=60 * MIB)
KILLS = Usage(oom_kills=1, memory_peak_bytes=63 * MIB + 5)
TOO_MUCH_CPU = Excess(reason="cpu-time", message="too much CPU time", ask=True)
TOO_MANY = Excess(reason="killed", message="too many tasks", ask=False)
TOO_MUCH = Excess(reason="memory", message="too much memory", ask=False)
PYTHON = Victim(name="python3", pid=42, own_bytes=300 * MIB + 1)

EXITED_0 = "Job exited with status 0."
OVER_MEMORY = "Job has gone over memory limit of 64 megabytes. Last measured usage: 63 megabytes."
OVER_TIME = "Job has gone over wall time limit of 2.5 seconds."
KILLED = "Job was killed."

# What was asked for, seen and used; then reason, message, exit code and signal.
Row = tuple[Box, Ending, Usage, str, str, int | None, int | None]
TABLE: dict[str, Row] = {
    "success": (LIMITED, ending(exited(0)), NO_KILLS, "exited", EXITED_0, 0, None),
    "status": (
        LIMITED, ending(exited(7)), NO_KILLS, "exited", "Job exited with status 7.", 7, None,
    ),
    "255": (
        Box(), ending(exited(255)), Usage(), "exited", "Job exited with status 255.", 255, None,
    ),
    "signal": (
        LIMITED, ending(TERM), NO_KILLS, "signal", "Job was ended by signal SIGTERM.", None, TERM,
    ),
    "core": (
        Box(), ending(11 | CORE_DUMPED), Usage(),
        "signal", "Job was ended by signal SIGSEGV.", None, 11,
    ),
    "SIGKILL of its own": (
        LIMITED, ending(KILL), NO_KILLS, "signal", "Job was ended by signal SIGKILL.", None, KILL,
    ),
    "real-time signal": (
        Box(), ending(40), Usage(), "signal", "Job was ended by signal SIGRTMIN+6.", None, 40,
    ),
    "out of memory": (LIMITED, ending(KILL), KILLS, "memory", OVER_MEMORY, None, KILL),
    "out of memory with init": (LIMITED, ending(None), KILLS, "memory", OVER_MEMORY, None, KILL),
    "a child out of memory": (LIMITED, ending(exited(1)), KILLS, "memory", OVER_MEMORY, 1, None),
    "the victim is known": (
        LIMITED, ending(KILL, victim=PYTHON), KILLS,
        "memory", f"{OVER_MEMORY} The kernel killed python3 (PID 42, 300 megabytes).", None, KILL,
    ),
    "it was the limit of a box around": (
        LIMITED, replaced(ending(KILL), by_own_limit=False), KILLS,
        "memory", "Job was out of memory, though not by a limit of its own.", None, KILL,
    ),
    "no peak is known": (
        LIMITED, ending(KILL), Usage(oom_kills=2),
        "memory", "Job has gone over memory limit of 64 megabytes.", None, KILL,
    ),
    "a child was killed, the job goes on": (
        GOES_ON, ending(exited(0)), KILLS, "exited", EXITED_0, 0, None,
    ),
    "so it goes on and fails": (
        GOES_ON, ending(exited(3)), KILLS, "exited", "Job exited with status 3.", 3, None,
    ),
    "the job itself was killed": (GOES_ON, ending(KILL), KILLS, "memory", OVER_MEMORY, None, KILL),
    "it goes on and is ended": (
        GOES_ON, ending(TERM), KILLS, "signal", "Job was ended by signal SIGTERM.", None, TERM,
    ),
    "wall time, asked": (
        LIMITED, ending(TERM, timed_out=True), NO_KILLS, "wall-time", OVER_TIME, None, TERM,
    ),
    "wall time, gave in": (
        LIMITED, ending(exited(0), timed_out=True), NO_KILLS, "wall-time", OVER_TIME, 0, None,
    ),
    "wall time, killed": (
        LIMITED, ending(None, timed_out=True), NO_KILLS, "wall-time", OVER_TIME, None, KILL,
    ),
    "out of memory while it is asked to end": (
        LIMITED, ending(KILL, timed_out=True), KILLS, "memory", OVER_MEMORY, None, KILL,
    ),
    "watched CPU time": (
        LIMITED, ending(TERM, excess=TOO_MUCH_CPU), NO_KILLS,
        "cpu-time", "too much CPU time", None, TERM,
    ),
    "watched tasks": (
        LIMITED, ending(None, excess=TOO_MANY), NO_KILLS, "killed", "too many tasks", None, KILL,
    ),
    "watched memory": (
        Box(MemoryMax="64M"), ending(None, excess=TOO_MUCH, killed=True), Usage(),
        "memory", "too much memory", None, KILL,
    ),
    "a watch was first": (
        LIMITED, ending(None, excess=TOO_MUCH_CPU, timed_out=True, killed=True), KILLS,
        "cpu-time", "too much CPU time", None, KILL,
    ),
    "killed": (LIMITED, ending(None, killed=True), NO_KILLS, "killed", KILLED, None, KILL),
    "killed, seen by init": (Box(), ending(KILL, killed=True), Usage(), "killed", KILLED, None, 9),
    "killed by somebody": (Box(), ending(None), Usage(), "killed", KILLED, None, KILL),
}  # fmt: skip


@pytest.mark.parametrize(
    ("box", "end", "usage", "reason", "message", "exit_code", "number"), TABLE.values(), ids=TABLE
)
def test_endings(
    box: Box,
    end: Ending,
    usage: Usage,
    reason: str,
    message: str,
    exit_code: int | None,
    number: int | None,
) -> None:
    found = result(plan(box), end, usage)
    assert (found.reason, found.message) == (reason, message)
    assert (found.exit_code, found.signal) == (exit_code, number)


def test_every_reason_is_in_the_table() -> None:
    # Nothing keeps a limit on disk use yet, and launches that failed have no ending.
    assert {row[3] for row in TABLE.values()} == set(get_args(Reason)) - {"disk", "launch-failed"}


def test_a_kill_for_memory_without_a_limit_names_none() -> None:
    found = result(plan(Box()), ending(KILL, victim=PYTHON), KILLS)
    assert found.reason == "memory"
    assert "limit of 0" not in found.message
    assert "The kernel killed python3 (PID 42, 300 megabytes)." in found.message


def test_a_share_of_memory_is_told_in_megabytes() -> None:
    found = result(plan(Box(MemoryMax="25%")), ending(KILL), KILLS)
    assert found.message.startswith("Job has gone over memory limit of 4096 megabytes. ")
    assert found.memory_limit_bytes == 4 << 30


def test_a_launch_that_failed() -> None:
    found = launch_failed(plan(LIMITED), 103.5, "no such program")
    assert (found.reason, found.message) == ("launch-failed", "no such program")
    assert (found.exit_code, found.signal) == (None, None)
    assert (found.started_at, found.ended_at, found.wall_seconds) == (None, 103.5, None)
    assert found.usage == Usage()


@pytest.fixture
def account() -> Result:
    usage = Usage(cpu_user_seconds=1.5, oom_kills=0)
    return result(plan(LIMITED), ending(exited(0)), usage)


def test_what_passes_through(account: Result) -> None:
    assert (account.job, account.unit, account.manager) == ("j1", "sdbox-j1.scope", "system")
    assert account.command == ("./train", "--fast")
    assert (account.started_at, account.ended_at, account.wall_seconds) == (100.0, 103.5, 3.25)
    assert account.memory_limit_bytes == 64 * MIB
    assert account.box == {"MemoryMax": "64M", "RuntimeMaxSec": "2s 500ms"}
    assert account.enforcement == {
        "MemoryMax": "kernel",
        "MemorySwapMax": "kernel",
        "RuntimeMaxSec": "manager",
    }


def test_the_report(account: Result) -> None:
    report = account.to_json()
    assert tuple(report) == REPORT_FIELDS
    assert report["command"] == ["./train", "--fast"]
    assert report["cpu_user_seconds"] == 1.5
    assert report["oom_kills"] == 0
    assert report["tasks_peak"] is None, "what nobody kept is unknown, not 0"
    assert report["cpus"] is None, "none were assigned"
