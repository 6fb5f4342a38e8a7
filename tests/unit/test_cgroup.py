"""What is read from cgroup files, here from a plain directory that holds some."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sdbox.cgroup import Cgroup, CgroupError, controllers, path_of
from sdbox.result import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = {
    "cgroup.controllers": "cpuset cpu io memory pids\n",
    "cpu.stat": "usage_usec 3500000\nuser_usec 2500000\nsystem_usec 1000000\nthrottled_usec 7\n",
    "cpu.pressure": "some avg10=0.00 avg300=0.00 total=500000\nfull avg10=0.00 total=3\n",
    "memory.peak": "1048576\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.events": "low 0\noom_kill 7\n",
    "memory.events.local": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n",
    "pids.peak": "12\n",
    "io.stat": (
        "8:0 rbytes=1000 wbytes=20 rios=5 wios=1 dbytes=0 dios=0\n253:1 rbytes=24 wbytes=4\n7:0\n"
    ),
}


@pytest.fixture
def cgroup(tmp_path: Path) -> Iterator[Cgroup]:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    with Cgroup.open(str(tmp_path)) as cgroup:
        yield cgroup


@pytest.mark.parametrize(
    ("local", "name", "kills", "own"),
    [
        ("oom 1\noom_kill 2\n", "x.scope", 2, True),
        ("oom 0\noom_kill 2\n", "x.scope", 2, False),
        # In a slice it is those below that are killed: for its limit, or for theirs.
        ("oom 1\noom_kill 0\n", "x.slice", 7, True),
        ("oom 0\noom_kill 0\n", "x.slice", 0, False),
    ],
)
def test_whose_limit_it_was(tmp_path: Path, local: str, name: str, kills: int, own: bool) -> None:
    place = tmp_path / name
    place.mkdir()
    (place / "memory.events").write_text(FILES["memory.events"])
    (place / "memory.events.local").write_text(local)
    with Cgroup.open(str(place)) as cgroup:
        assert (cgroup.usage().oom_kills, cgroup.hit_own_memory_limit()) == (kills, own)


def test_read(cgroup: Cgroup) -> None:
    assert cgroup.read("memory.max") == "max"
    assert cgroup.read("memory.none") is None


def test_value(cgroup: Cgroup) -> None:
    assert cgroup.value("memory.current") == 4096
    assert cgroup.value("memory.max") is None
    assert cgroup.value("memory.none") is None


def test_flat(cgroup: Cgroup) -> None:
    assert cgroup.flat("memory.events") == {"low": 0, "oom_kill": 7}
    assert cgroup.flat("memory.none") is None


def test_nested(cgroup: Cgroup) -> None:
    figures = cgroup.nested("io.stat")
    assert figures is not None
    assert figures["8:0"]["rios"] == 5
    assert figures["7:0"] == {}


def test_usage(cgroup: Cgroup) -> None:
    assert cgroup.usage() == Usage(
        cpu_user_seconds=2.5,
        cpu_system_seconds=1.0,
        cpu_throttled_seconds=7e-6,
        memory_cgroup_peak_bytes=1048576,
        oom_kills=2,
        tasks_peak=12,
        io_read_bytes=1024,
        io_write_bytes=24,
        io_read_operations=5,
        io_write_operations=1,
        cpu_pressure_seconds=0.5,
    )


def test_usage_without_controllers(cgroup: Cgroup, tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).unlink()
    (tmp_path / "cpu.stat").write_text("usage_usec 3500000\nuser_usec 2500000\n")
    assert cgroup.usage() == Usage(cpu_user_seconds=2.5)


def test_usage_of_an_unused_device_is_zero(cgroup: Cgroup, tmp_path: Path) -> None:
    (tmp_path / "io.stat").write_text("")
    assert cgroup.usage().io_read_bytes == 0


def test_controllers(cgroup: Cgroup, tmp_path: Path) -> None:
    assert controllers(str(tmp_path)) == {"cpuset", "cpu", "io", "memory", "pids"}
    (tmp_path / "cgroup.controllers").unlink()
    assert controllers(str(tmp_path)) == frozenset()


def test_open_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=r"no-such.*No such file"):
        Cgroup.open(str(tmp_path / "no-such"))


def test_a_file_that_is_no_file_is_an_error(cgroup: Cgroup, tmp_path: Path) -> None:
    (tmp_path / "memory.odd").mkdir()
    with pytest.raises(CgroupError, match=r"memory\.odd"):
        cgroup.read("memory.odd")


def test_close_twice(cgroup: Cgroup) -> None:
    fd = cgroup.fd
    cgroup.close()
    cgroup.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_path_of_a_process_that_is_not_there() -> None:
    # The kernel's largest PID is 2^22.
    assert path_of(2**22 + 1) is None
