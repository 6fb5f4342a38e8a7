"""`sdbox top`: batches for programs, a screen for people."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Running, Sdbox

BUSY = "echo up; while :; do :; done"
IDLE = "echo up; exec cat"
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


def started(sdbox: Sdbox, script: str) -> Running:
    job = sdbox.start_sh(script)
    job.line()
    return job


@pytest.fixture
def jobs(sdbox: Sdbox) -> Iterator[tuple[Running, Running]]:
    idle, busy = started(sdbox, IDLE), started(sdbox, BUSY)
    yield idle, busy
    assert sdbox.call("kill", idle.id, busy.id).status == 0
    for job in (idle, busy):
        job.end()


def test_batch(sdbox: Sdbox, jobs: tuple[Running, Running]) -> None:
    idle, busy = jobs
    done = sdbox.call("top", "--batch", "-n2", "-d0.2", idle.id, busy.id)
    assert done.status == 0
    tables = done.out.removesuffix("\n\n").split("\n\n")
    assert len(tables) == 2
    for table in tables:
        first, second = (line.split() for line in table.splitlines())
        assert (first[0], second[0]) == (busy.id, idle.id)
        assert float(first[2]) > 10 > float(second[2])


def test_json(sdbox: Sdbox, jobs: tuple[Running, Running]) -> None:
    idle, busy = jobs
    done = sdbox.call("top", "--json", "-n1", "-d0.2", "--sort=job", idle.id, busy.id)
    (line,) = done.out.splitlines()
    readings = json.loads(line)
    assert [one["job"] for one in readings] == sorted([idle.id, busy.id])
    assert all(one["memory_bytes"] > 0 and one["tasks"] >= 1 for one in readings)


def test_jobs_come_and_go(sdbox: Sdbox) -> None:
    job = started(sdbox, IDLE)
    assert sdbox.call("kill", job.id).status == 0
    job.end()
    done = sdbox.call("top", "--batch", "-n1", "-d0.1", job.id)
    assert (done.status, done.out, done.err) == (0, "\n", "")


def screen(sdbox: Sdbox, *words: str) -> Terminal:
    return Terminal([*sdbox.command, "top", "-d60", *words], {"TERM": "xterm", "COLUMNS": ""})


def test_a_screen(sdbox: Sdbox, jobs: tuple[Running, Running]) -> None:
    idle, busy = jobs
    terminal = screen(sdbox, idle.id, busy.id)
    terminal.expect(ENTER)
    terminal.expect("2 jobs, by cpu")
    terminal.expect("COMMAND")
    # A key is heeded at once, and not after a minute.
    terminal.type("m")
    terminal.expect("2 jobs, by memory")
    terminal.type("j")
    terminal.expect("2 jobs, by job")
    terminal.type("q")
    terminal.expect(LEAVE)
    assert terminal.process.wait(30) == 0


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_a_screen_is_given_back(sdbox: Sdbox, number: int, status: int) -> None:
    terminal = screen(sdbox)
    terminal.expect("by cpu")
    terminal.process.send_signal(number)
    terminal.expect(LEAVE)
    assert terminal.process.wait(30) == status


def test_lists_have_a_header_and_colours_on_a_terminal(sdbox: Sdbox) -> None:
    job = started(sdbox, IDLE)
    terminal = Terminal([*sdbox.command, "list", job.id], {"TERM": "xterm"})
    assert "COMMAND" in terminal.expect("\x1b[32mrunning\x1b[0m")
    assert terminal.process.wait(30) == 0
    plain = Terminal([*sdbox.command, "list", "--no-legend", job.id], {"NO_COLOR": "1"})
    seen = plain.expect("running")
    assert "COMMAND" not in seen
    assert "\x1b" not in seen
    plain.process.wait(30)
    job.end()
