"""The events: fields, figures, and the catalogue that explains them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.host.facts import Host
from sdbox.journal import events
from sdbox.journal.events import EVENTS, FIGURES
from sdbox.plan.planner import Caller, make_plan
from sdbox.record import replaced, values_of
from sdbox.result import Result, Usage
from sdbox.watch.limits import Excess

if TYPE_CHECKING:
    from sdbox.journal.events import Fields
    from sdbox.plan import Plan

CHECKOUT = Path(__file__).parent.parent.parent
CATALOG = CHECKOUT / "packaging" / "sdbox.catalog"
README = CHECKOUT / "README.md"
UNIT = "sdbox-j1.scope"

ALL = Usage(
    cpu_user_seconds=1.5,
    cpu_system_seconds=0.25,
    cpu_throttled_seconds=0.000001,
    memory_peak_bytes=60 << 20,
    memory_cgroup_peak_bytes=64 << 20,
    oom_kills=0,
    tasks_peak=3,
    io_read_bytes=4096,
    io_write_bytes=0,
    io_read_operations=1,
    io_write_operations=0,
    cpu_pressure_seconds=0.5,
    memory_pressure_seconds=0.0,
    io_pressure_seconds=2.0,
)


def plan(box: Box | None = None, command: tuple[str, ...] = ("./train", "--fast")) -> Plan:
    return make_plan(
        job="j1",
        command=command,
        box=Box(MemoryMax="64M") if box is None else box,
        host=Host(
            manager="system",
            controllers=frozenset({"memory"}),
            memory_total_bytes=1 << 34,
            tasks_total=1000,
        ),
        credentials=None,
        caller=Caller(environment={}, working_directory="/", home="/root"),
    )


def result(usage: Usage) -> Result:
    return Result(
        job="j1",
        unit=UNIT,
        manager="system",
        command=("./train",),
        reason="exited",
        message="Job exited with status 7.",
        exit_code=7,
        signal=None,
        started_at=100.0,
        ended_at=103.5,
        wall_seconds=3.25,
        usage=usage,
        memory_limit_bytes=64 << 20,
        box={},
        enforcement={},
    )


TOO_MUCH = Excess(reason="memory", message="Too much.", ask=False)

ENTRIES: dict[str, Fields] = {
    "job-started": events.started(plan()),
    "limit-passed": events.limit_passed(plan(), TOO_MUCH, Usage()),
    "frozen": events.frozen("j1", UNIT, "system"),
    "thawed": events.thawed("j1", UNIT, "system"),
    "killed": events.killed("j1", UNIT, "system"),
    "finished": events.finished(result(Usage())),
}


def catalog() -> dict[str, str]:
    """The catalogue's entries by their ids. An entry ends at the next."""
    entries: dict[str, str] = {}
    current = ""
    for line in CATALOG.read_text().splitlines(keepends=True):
        if line.startswith("-- "):
            current = line[3:].strip()
            assert current not in entries
            entries[current] = ""
        elif current:
            entries[current] += line
        else:
            assert line == "\n" or line.startswith("#")
    return entries


def test_the_catalogue_explains_every_event_and_nothing_else() -> None:
    assert sorted(catalog()) == sorted(event.id for event in EVENTS.values())


def test_the_readme_has_every_event() -> None:
    rows = re.findall(r"^\| ([a-z-]+) \| `([0-9a-f]{32})` \|", README.read_text(), re.MULTILINE)
    assert rows == [(event.name, event.id) for event in EVENTS.values()]


def test_ids_are_random_numbers_of_128_bits() -> None:
    ids = [event.id for event in EVENTS.values()]
    assert len(set(ids)) == len(ids)
    # Of a random UUID, as `journalctl --new-id128` makes them.
    assert all(re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", id_) for id_ in ids)


@pytest.mark.parametrize("name", EVENTS)
def test_an_explanation_has_a_header_and_a_text(name: str) -> None:
    header, blank, text = catalog()[EVENTS[name].id].partition("\n\n")
    assert [line.partition(": ")[0] for line in header.splitlines()] == ["Subject", "Defined-By"]
    assert blank
    assert text.strip()


@pytest.mark.parametrize("name", EVENTS)
def test_an_explanation_is_of_fields_that_are_always_there(name: str) -> None:
    there = {field for field, _ in ENTRIES[name]}
    named = set(re.findall(r"@([A-Z_]+)@", catalog()[EVENTS[name].id]))
    assert named
    assert named <= there


@pytest.mark.parametrize("name", EVENTS)
def test_every_entry_says_what_and_whose_it_is(name: str) -> None:
    entry = dict(ENTRIES[name])
    assert entry["MESSAGE_ID"] == EVENTS[name].id
    assert entry["PRIORITY"] == str(EVENTS[name].priority)
    assert entry["SYSLOG_IDENTIFIER"] == "sdbox"
    assert entry["SDBOX_JOB"] == "j1"
    assert entry["OBJECT_SYSTEMD_UNIT"] == entry["SDBOX_UNIT"] == UNIT
    assert "OBJECT_SYSTEMD_USER_UNIT" not in entry
    assert entry["MESSAGE"].startswith(f"{UNIT}: ")


def test_an_ordinary_users_unit_is_told_as_his() -> None:
    of_user = replaced(plan(), manager="user"), replaced(result(Usage()), manager="user")
    entries = (
        events.started(of_user[0]),
        events.limit_passed(of_user[0], TOO_MUCH, Usage()),
        events.frozen("j1", UNIT, "user"),
        events.finished(of_user[1]),
    )
    for entry in map(dict, entries):
        assert entry["OBJECT_SYSTEMD_USER_UNIT"] == UNIT
        assert "OBJECT_SYSTEMD_UNIT" not in entry


def test_every_figure_has_a_field() -> None:
    figures = set(values_of(ALL)) | {"exit_code", "signal", "wall_seconds"}
    assert figures <= FIGURES.keys()
    assert len(set(FIGURES.values())) == len(FIGURES)


def test_the_end_has_every_figure_that_is_known() -> None:
    entry = dict(events.finished(result(ALL)))
    assert {name: text for name, text in entry.items() if name.startswith("SDBOX_")} == {
        "SDBOX_JOB": "j1",
        "SDBOX_UNIT": UNIT,
        "SDBOX_REASON": "exited",
        "SDBOX_EXIT_CODE": "7",
        "SDBOX_STARTED_AT_USEC": "100000000",
        "SDBOX_ENDED_AT_USEC": "103500000",
        "SDBOX_WALL_USEC": "3250000",
        "SDBOX_CPU_USEC": "1750000",
        "SDBOX_CPU_USER_USEC": "1500000",
        "SDBOX_CPU_SYSTEM_USEC": "250000",
        "SDBOX_CPU_THROTTLED_USEC": "1",
        "SDBOX_MEMORY_PEAK": str(60 << 20),
        "SDBOX_MEMORY_CGROUP_PEAK": str(64 << 20),
        "SDBOX_MEMORY_LIMIT": str(64 << 20),
        "SDBOX_OOM_KILLS": "0",
        "SDBOX_TASKS_PEAK": "3",
        "SDBOX_IO_READ_BYTES": "4096",
        "SDBOX_IO_WRITE_BYTES": "0",
        "SDBOX_IO_READ_OPERATIONS": "1",
        "SDBOX_IO_WRITE_OPERATIONS": "0",
        "SDBOX_CPU_PRESSURE_USEC": "500000",
        "SDBOX_MEMORY_PRESSURE_USEC": "0",
        "SDBOX_IO_PRESSURE_USEC": "2000000",
    }
    assert entry["MESSAGE"] == (
        f"{UNIT}: Job exited with status 7."
        " It took 3.250 s, 1.750 s of CPU time and 60.0 megabytes of memory."
    )


OVER = result(Usage(oom_kills=1, memory_peak_bytes=64 << 20))
ENDS = {
    "of itself": (result(ALL), False, []),
    "memory": (replaced(OVER, reason="memory"), False, ["memory"]),
    "wall time": (replaced(OVER, reason="wall-time", usage=ALL), False, ["wall-time"]),
    "a watched limit": (replaced(OVER, reason="memory"), True, []),
    "one of its processes was killed": (OVER, False, ["memory"]),
    "on request": (replaced(OVER, reason="killed", usage=ALL), False, []),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_limit_that_was_passed_is_told_of_once_and_before_the_end(name: str) -> None:
    ending, told, limits = ENDS[name]
    *before, last = (dict(fields) for fields in events.ended(plan(), ending, limit_told=told))
    assert last["MESSAGE_ID"] == EVENTS["finished"].id
    assert last["SDBOX_REASON"] == ending.reason
    assert {entry["MESSAGE_ID"] for entry in before} <= {EVENTS["limit-passed"].id}
    assert [entry["SDBOX_REASON"] for entry in before] == limits


def test_what_is_not_known_is_not_there() -> None:
    entry = dict(events.finished(result(Usage(memory_peak_bytes=0))))
    assert entry["SDBOX_MEMORY_PEAK"] == "0"
    assert not {"SDBOX_SIGNAL", "SDBOX_CPU_USEC", "SDBOX_TASKS_PEAK"} & entry.keys()
    assert entry["MESSAGE"].endswith(" It took 3.250 s and 0.0 megabytes of memory.")


def test_the_start_has_what_was_asked_for_and_who_keeps_it() -> None:
    box = Box(MemoryMax="64M", CPUTimeMaxSec="5s", PrivateTmp=True)
    fields = events.started(plan(box))
    assert [text for name, text in fields if name == "SDBOX_DIRECTIVE"] == [
        f"{name}={text}" for name, text in box.to_json().items()
    ]
    kept = {text for name, text in fields if name == "SDBOX_ENFORCEMENT"}
    assert {"MemoryMax=kernel", "CPUTimeMaxSec=watch"} <= kept
    assert dict(fields)["SDBOX_MEMORY_LIMIT"] == str(64 << 20)


def test_no_variable_of_the_job_gets_into_the_journal() -> None:
    fields = events.started(plan(Box(Environment=["TOKEN=hush", "A=hush"])))
    assert "hush" not in repr(fields)
    told = [text for name, text in fields if name == "SDBOX_DIRECTIVE"]
    assert told == ["Environment=TOKEN=…", "Environment=A=…"]


def test_a_command_is_shown_on_one_line_and_kept_as_it_is() -> None:
    words = ("sh", "-c", "echo 1\necho 2\x1b[2J", "\udcff")
    entry = dict(events.started(plan(command=words)))
    assert entry["MESSAGE"].isprintable()
    assert entry["SDBOX_COMMAND"] == " ".join(words)


def test_a_command_of_any_length_makes_an_entry_of_bounded_size() -> None:
    entry = dict(events.started(plan(command=("true", "x" * 1_000_000))))
    assert len(entry["MESSAGE"]) < 200
    assert len(entry["SDBOX_COMMAND"]) == 16384
    assert entry["SDBOX_COMMAND"].endswith("x…")
