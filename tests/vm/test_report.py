"""The closing summary: nothing that went wrong in a tier may go missing in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .report import read, summary

if TYPE_CHECKING:
    from pathlib import Path

PASSED = '<testcase classname="m" name="good" />'
FAILED = (
    '<testcase classname="m" name="bad"><failure message="assert 1 == 2&#10;more" /></testcase>'
)
ERROR = '<testcase classname="m" name="worse"><error message="no bus" /></testcase>'


def skipped(reason: str) -> str:
    return f'<testcase classname="m" name="other"><skipped message="{reason}" /></testcase>'


NO_MEMORY = skipped("units here have no memory controller")
HAS_MEMORY = skipped("units here have the memory controller")


def directory(place: Path, *cases: str, status: str = "0") -> str:
    text = f'<testsuites><testsuite time="2.5">{"".join(cases)}</testsuite></testsuites>'
    (place / "junit.xml").write_text(text)
    (place / "status").write_text(f"{status}\n")
    (place / "facts").write_text("systemd 257\nPython 3.13\n")
    return str(place)


def test_counts_and_facts(tmp_path: Path) -> None:
    place = directory(tmp_path, PASSED, PASSED, FAILED, ERROR, NO_MEMORY, status="1")
    tier = read("lab", place)
    assert (tier.passes, tier.seconds, tier.passed) == (2, 2.5, False)
    assert tier.failures == ("m::bad: assert 1 == 2", "m::worse: no bus")
    lines = summary([tier]).splitlines()
    assert lines[1].split() == ["lab", "2", "2", "1", "2", "systemd", "257,", "Python", "3.13"]
    assert "lab: skipped 1: units here have no memory controller" in lines


@pytest.mark.parametrize(
    ("tier", "cases", "passed"),
    [
        ("lab", (PASSED, NO_MEMORY), True),
        ("vm-1", (PASSED, NO_MEMORY), False),
        ("limits", (PASSED, NO_MEMORY), False),
        ("limits-252", (PASSED, NO_MEMORY), False),
        ("vm-1", (PASSED, HAS_MEMORY), True),
        ("vm-1", (HAS_MEMORY,), False),
        ("lab", (), False),
    ],
)
def test_what_a_tier_may_skip(
    tmp_path: Path, tier: str, cases: tuple[str, ...], passed: bool
) -> None:
    assert read(tier, directory(tmp_path, *cases)).passed is passed


def test_a_tier_that_broke_down_has_not_passed(tmp_path: Path) -> None:
    assert not read("vm-1", directory(tmp_path, PASSED, status="3")).passed
    (tmp_path / "junit.xml").write_text("<testsuites><testsuite>")
    assert not read("vm-1", str(tmp_path)).passed
    assert not read("vm-1", str(tmp_path / "nothing-here.xml")).passed


def test_a_file_alone_is_a_tier(tmp_path: Path) -> None:
    directory(tmp_path, PASSED)
    assert read("unit", str(tmp_path / "junit.xml")).passed
