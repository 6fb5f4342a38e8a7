"""What the management verbs print."""

from __future__ import annotations

import sys

import pytest

from sdbox.cli import doctor, table
from sdbox.cli.complete import candidates
from sdbox.cli.top import Reading, in_order, picture
from sdbox.management.groups import is_job, job_of
from sdbox.management.jobs import named


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (1536 << 20, "1.5G"),
        (2**70, "1048576.0P"),
    ],
)
def test_sizes(number: int | None, text: str) -> None:
    assert table.size(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (-1, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1min"),
        (61.5, "1min 1s"),
        (3600, "1h"),
        (3601, "1h"),
        (90_061, "1d 1h"),
        (86_400, "1d"),
        (86_461, "1d"),
    ],
)
def test_spans(number: float | None, text: str) -> None:
    assert table.span(number) == text


def test_columns_are_as_wide_as_they_need_to_be() -> None:
    rows = [("JOB", "STATE", "COMMAND"), ("a-long-one", "x", "sh -c"), ("b", "running", "")]
    assert table.lines(rows, columns=None) == [
        "JOB         STATE    COMMAND",
        "a-long-one  x        sh -c",
        "b           running",
    ]
    assert table.lines(rows, columns=14)[1] == "a-long-one  x…"
    assert table.lines([], columns=None) == []


def test_colours_are_for_terminals_of_those_who_want_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = []
    for terminal, variables in (
        (True, {}),
        (False, {}),
        (True, {"NO_COLOR": "1"}),
        # no-color.org: "when present and not an empty string".
        (True, {"NO_COLOR": ""}),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
            for name, value in variables.items():
                patched.setenv(name, value)
            doctor._line("TasksMax", "kernel", "")
            shown.append((capsys.readouterr().out.split(), table.painted("running")))
    assert shown[1] == shown[2] == (["TasksMax", "kernel"], "running")
    assert shown[3] == shown[0]
    words, state = shown[0]
    assert words[1] == "\x1b[32mkernel"
    assert state == "\x1b[32mrunning\x1b[0m"


def test_what_a_job_says_moves_no_cursor() -> None:
    assert "\x1b" not in table.command_line(["sh", "\x1b[2J\n\u202e"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a-1", True),
        ("sdbox-a-1.scope", True),
        ("a-*", True),
        ("*.scope", True),
        ("a-[0-9]", True),
        ("a", False),
        ("*.service", False),
        ("A-1", False),
        ("", False),
    ],
)
def test_names(name: str, meant: bool) -> None:
    assert named("sdbox-a-1.scope", name) is meant


def test_units() -> None:
    assert is_job("sdbox-a.service")
    assert not is_job("sdboxd.service")
    assert not is_job("sdbox-a.slice")
    assert job_of("sdbox-a.b.scope") == "a.b"


def reading(job: str, cpu_percent: float | None, memory_bytes: int | None) -> Reading:
    return Reading(
        job=job,
        unit=f"sdbox-{job}.scope",
        state="running",
        command="true",
        cpu_percent=cpu_percent,
        cpu_seconds=None,
        memory_bytes=memory_bytes,
        tasks=1,
        io_read_bytes_per_second=None,
        io_write_bytes_per_second=None,
    )


def test_the_greediest_is_first_and_the_unknown_last() -> None:
    readings = [reading("b", 1.0, None), reading("c", None, 7), reading("a", 5.0, 0)]
    assert [one.job for one in in_order(readings, "cpu")] == ["a", "b", "c"]
    assert [one.job for one in in_order(readings, "memory")] == ["c", "a", "b"]
    assert [one.job for one in in_order(readings, "tasks")] == ["a", "b", "c"]


def test_a_screen_is_no_larger_than_the_terminal() -> None:
    rows = [(f"job{n}", "running", *["-"] * 6, "x" * 200) for n in range(50)]
    lines = picture(rows, "cpu", columns=40, height=10).split("\r\n")
    assert len(lines) == 10
    plain = [line.replace("\x1b[H", "").replace("\x1b[K", "") for line in lines]
    assert all(len(line) <= 40 + len("\x1b[1m\x1b[0m\x1b[J") for line in plain)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([""], "freeze"),
        (["fr"], "freeze"),
        (["kill", "-s", "TE"], "TERM"),
        (["kill", "--si"], "--signal"),
        (["run", "-p", "MemoryM"], "MemoryMax="),
        (["run", "--network", ""], None),
        (["run", "--manager", "e"], "embedded"),
        (["top", "--sort", "m"], "memory"),
        (["set-property", "job", "CPUW"], "CPUWeight="),
        (["embedded", "st"], "status"),
        (["embedded", "status", "--j"], "--json"),
        (["run", "--", "fi"], None),
        (["plot", "fi"], None),
        (["nonsense", ""], ""),
    ],
)
def test_completion(words: list[str], found: str | None) -> None:
    candidate = candidates(words, len(words) - 1)
    if not found:
        assert candidate == ([] if found == "" else None)
    else:
        assert candidate is not None
        assert found in candidate


def test_completion_hides_what_is_not_for_people() -> None:
    assert candidates(["com"], 0) == []
