"""A job's usage over time: what is written, how much of it, and what is read back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.box import Box
from sdbox.errors import SdboxError
from sdbox.host.facts import Host
from sdbox.plan.planner import Caller, make_plan
from sdbox.usage.series import Sample, Series, read_series

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sdbox.plan import Plan


def plan(*command: str, **directives: object) -> Plan:
    return make_plan(
        job="j1",
        command=command or ("./train",),
        box=Box(**directives),
        host=Host(
            manager="system",
            controllers=frozenset({"memory", "cpu"}),
            memory_total_bytes=1 << 34,
            tasks_total=1000,
        ),
        credentials=None,
        caller=Caller(environment={}, working_directory="/", home="/root"),
    )


def sample(number: int) -> Sample:
    return Sample(seconds=number / 2, memory_bytes=number, cpu_seconds=number / 4, tasks=2)


def write(
    path: Path, samples: Iterable[Sample], most: int = 2048, of: Plan | None = None
) -> list[int]:
    """Write a series; return how many lines the file had after each sample."""
    lines = []
    with path.open("w") as file:
        series = Series(file, most_samples=most)
        series.begin(of or plan())
        for one in samples:
            series.add(one)
            # By another descriptor, as somebody who looks on while the job runs.
            lines.append(len(path.read_text().splitlines()))
    return lines


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = [sample(number) for number in range(5)]
    written.append(Sample(seconds=9.001, memory_bytes=None, cpu_seconds=None, tasks=0))
    assert write(tmp_path / "r", written) == [2, 3, 4, 5, 6, 7]
    header, samples = read_series(str(tmp_path / "r"))
    assert samples == written
    assert header["job"] == "j1"


def test_the_first_line_describes_the_job(tmp_path: Path) -> None:
    made = plan("a", "b c", "ü\udcff\n", MemoryMax="64M", CPUQuota="150%")
    write(tmp_path / "r", [], of=made)
    header = json.loads((tmp_path / "r").read_text())
    started = header["started_at"]
    assert isinstance(started, float)
    assert header == {
        "job": "j1",
        "unit": "sdbox-j1.scope",
        "command": ["a", "b c", "ü\udcff\n"],
        "started_at": started,
        "box": {"MemoryMax": "64M", "CPUQuota": "150%"},
        "memory_limit_bytes": 64 << 20,
        "cpu_limit": 1.5,
    }
    read, samples = read_series(str(tmp_path / "r"))
    assert read.items() <= header.items()
    assert read["command"] == header["command"]
    assert samples == []


def test_no_limits_are_null(tmp_path: Path) -> None:
    write(tmp_path / "r", [])
    header, _ = read_series(str(tmp_path / "r"))
    assert (header["memory_limit_bytes"], header["cpu_limit"]) == (None, None)


@pytest.mark.parametrize("most", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("count", [1, 2, 9, 200])
def test_the_file_has_a_bound(tmp_path: Path, most: int, count: int) -> None:
    written = [sample(number) for number in range(count)]
    lines = write(tmp_path / "r", written, most)
    assert max(lines) <= most + 1
    _, samples = read_series(str(tmp_path / "r"))
    assert samples[0] == written[0]
    assert samples == sorted(set(samples) & set(written), key=written.index)
    assert len(samples) == min(lines[-1] - 1, count)


def test_thinning_drops_every_other_sample(tmp_path: Path) -> None:
    write(tmp_path / "r", map(sample, range(5)), 4)
    _, samples = read_series(str(tmp_path / "r"))
    assert samples == [sample(0), sample(2), sample(4)]


def test_a_thinned_file_has_nothing_of_the_longer_one(tmp_path: Path) -> None:
    # What is left is shorter than what was there.
    write(tmp_path / "r", [sample(10**9 * number) for number in range(5)], 4)
    text = (tmp_path / "r").read_text()
    assert text.endswith("}\n")
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert len(text.splitlines()) == 4


@given(
    seconds=st.lists(st.floats(0, 1e6), max_size=40),
    most=st.integers(1, 12),
)
def test_samples_stay_in_order(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[float], most: int
) -> None:
    path = tmp_path_factory.mktemp("series") / "r"
    written = [
        Sample(seconds=time, memory_bytes=number, cpu_seconds=None, tasks=1)
        for number, time in enumerate(sorted(seconds))
    ]
    write(path, written, most)
    _, samples = read_series(str(path))
    numbers = [one.memory_bytes for one in samples]
    assert numbers == sorted(set(numbers), key=numbers.index)
    assert all(one == written[one.memory_bytes or 0] for one in samples)
    assert len(samples) <= most
    assert not written or samples[0] == written[0]


HEADER: dict[str, Any] = {
    "job": "j1",
    "unit": "sdbox-j1.scope",
    "command": ["./train"],
    "started_at": 1.5,
    "box": {},
    "memory_limit_bytes": None,
    "cpu_limit": None,
}
SAMPLE: dict[str, Any] = {"seconds": 0, "memory_bytes": 1, "cpu_seconds": 0.5, "tasks": 1}


def document(*lines: object) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


# What is in the file, and the line that is none of ours.
MALFORMED: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 1),
    "not JSON": (b"hello\n", 1),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", 1),
    "no object": (b"[1]\n", 1),
    "another document": (document({"reason": "exited"}), 1),
    "a job's name alone": (document({"job": "j1"}), 1),
    "a command of another kind": (document(HEADER | {"command": "./train"}), 1),
    "a limit of another kind": (document(HEADER | {"memory_limit_bytes": "64M"}), 1),
    "a sample cut short": (document(HEADER, SAMPLE) + b'{"seconds": 1, "mem', 3),
    "a sample that is no object": (document(HEADER, [1]), 2),
    "nested": (b"[" * 100_000, 1),
    "a field too few": (document(HEADER, SAMPLE, {"seconds": 1}), 3),
    "a value of another kind": (document(HEADER, SAMPLE, SAMPLE | {"seconds": "1"}), 3),
    "memory of another kind": (document(HEADER, SAMPLE | {"memory_bytes": "1M"}), 2),
    "bytes that are no text": (document(HEADER, SAMPLE) + b"\xff\n", 3),
    "an empty line": (document(HEADER) + b"\n" + document(SAMPLE), 2),
}


@pytest.mark.parametrize(("contents", "line"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_file_gives_one_clear_line(tmp_path: Path, contents: bytes, line: int) -> None:
    path = tmp_path / "r"
    path.write_bytes(contents)
    with pytest.raises(SdboxError) as caught:
        read_series(str(path))
    assert str(caught.value) == (
        f"{path}: line {line} is not what --record writes. "
        "Name a file that `sdbox run --record` wrote"
    )


@pytest.mark.parametrize("more", [{}, {"more": [1]}])
def test_what_a_later_version_may_add(tmp_path: Path, more: dict[str, Any]) -> None:
    path = tmp_path / "r"
    path.write_bytes(document(HEADER | more, SAMPLE | more))
    header, samples = read_series(str(path))
    assert samples == [Sample(**SAMPLE)]
    assert header.items() <= HEADER.items()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_series(str(tmp_path / "none"))
