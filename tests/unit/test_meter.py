"""What is known of a job's memory when its cgroup is gone, here of plain directories with files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from sdbox.cgroup import Cgroup
from sdbox.usage.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVENTS = "low 0\nhigh 0\nmax 3\noom 1\noom_kill {}\noom_group_kill 0\n"


class Slice:
    """A slice with one job in it. `count` is what the kernel would have counted."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.job = place / "job.scope"
        self.job.mkdir()
        self.count(0)
        for name in ("cgroup.events", "memory.events.local"):
            (self.job / name).write_text("populated 1\n" if name[0] == "c" else EVENTS.format(0))

    def count(self, kills: int) -> None:
        (self.place / "memory.events").write_text(EVENTS.format(kills))


@pytest.fixture
def slice_of_one(tmp_path: Path) -> Slice:
    return Slice(tmp_path)


@pytest.fixture
def meter(slice_of_one: Slice) -> Iterator[Meter]:
    with Cgroup.open(str(slice_of_one.job)) as cgroup:
        meter = Meter(cgroup, lambda: None)
        yield meter
        meter.close()


@pytest.mark.parametrize("kills", [0, 2])
def test_a_kill_whose_cgroup_went_at_once(slice_of_one: Slice, meter: Meter, kills: int) -> None:
    meter.read()
    slice_of_one.count(kills)
    shutil.rmtree(slice_of_one.job)
    assert not meter.read().oom_kills
    assert meter.missed_a_kill is bool(kills)


def test_a_kill_elsewhere_that_was_before(slice_of_one: Slice, meter: Meter) -> None:
    slice_of_one.count(1)
    meter.read()
    assert not meter.missed_a_kill
    shutil.rmtree(slice_of_one.job)
    assert not meter.missed_a_kill


def test_without_a_memory_controller(tmp_path: Path) -> None:
    (tmp_path / "job.scope").mkdir()
    with Cgroup.open(str(tmp_path / "job.scope")) as cgroup:
        meter = Meter(cgroup, lambda: None)
        assert not meter.missed_a_kill
        meter.close()
