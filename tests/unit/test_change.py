from __future__ import annotations

from typing import Any

import pytest

from sdbox.box import Box
from sdbox.errors import Unenforceable
from sdbox.host.facts import Host
from sdbox.management.change import changeable, make_change
from sdbox.values import INFINITY

ALL = frozenset({"cpu", "cpuset", "io", "memory", "pids"})


def host(*controllers: str) -> Host:
    return Host(
        manager="system",
        controllers=frozenset(controllers) or ALL,
        memory_total_bytes=1 << 30,
        tasks_total=1000,
    )


def properties(box: Box, before: dict[str, Any] | None = None, version: int = 257) -> Any:
    made = make_change(box, before or {}, host(), version)
    return {one.name: one.value for one in made.properties}


def test_what_can_be_changed_is_what_the_kernel_keeps_and_the_description() -> None:
    assert changeable() == [
        *("MemoryMax", "MemoryHigh", "MemorySwapMax", "TasksMax", "CPUQuota", "CPUWeight"),
        *("AllowedCPUs", "IOReadBandwidthMax", "IOWriteBandwidthMax", "Description"),
    ]


def test_properties_and_what_to_read_back() -> None:
    made = make_change(Box(TasksMax=5, Description="a b"), {"TasksMax": "9"}, host(), 257)
    assert {one.name: one.value for one in made.properties} == {"TasksMax": 5, "Description": "a b"}
    assert [(file.name, file.contents) for file in made.files] == [("pids.max", "5")]
    assert made.box == {"TasksMax": "5", "Description": "a b"}


def test_a_share_is_resolved() -> None:
    assert properties(Box(MemoryHigh="50%")) == {"MemoryHigh": 1 << 29}


def test_memory_without_a_word_about_swap_is_without_swap() -> None:
    assert properties(Box(MemoryMax="1M")) == {"MemoryMax": 1 << 20, "MemorySwapMax": 0}


def test_swap_that_was_asked_for_stays() -> None:
    assert properties(Box(MemoryMax="1M"), {"MemorySwapMax": "2M"}) == {"MemoryMax": 1 << 20}
    both = properties(Box(MemoryMax="1M", MemorySwapMax="2M"))
    assert both == {"MemoryMax": 1 << 20, "MemorySwapMax": 2 << 20}


def test_no_limit_any_more() -> None:
    assert properties(Box(MemoryMax="infinity"), {"MemoryMax": "1M"}) == {
        "MemoryMax": INFINITY,
        "MemorySwapMax": INFINITY,
    }


def test_an_empty_list_empties() -> None:
    made = make_change(Box(AllowedCPUs=""), {"AllowedCPUs": ["0"]}, host(), 257)
    assert [(one.name, one.value) for one in made.properties] == [("AllowedCPUs", b"")]
    assert [(file.name, file.contents) for file in made.files] == [("cpuset.cpus", "")]


@pytest.mark.parametrize(
    "box",
    [
        Box(User="nobody"),
        Box(RuntimeMaxSec="1h"),
        Box(CPUTimeMaxSec="1h"),
        Box(OOMPolicy="kill"),
        Box(BindPaths=""),
    ],
    ids=str,
)
def test_what_can_not_be_changed(box: Box) -> None:
    with pytest.raises(Unenforceable, match="can't be changed"):
        make_change(box, {}, host(), 257)


def test_what_is_watched_is_the_supervisors() -> None:
    with pytest.raises(Unenforceable, match="supervisor"):
        make_change(Box(MemoryMax="1M"), {}, host("cpu"), 257)
    with pytest.raises(Unenforceable, match="can't be kept here"):
        make_change(Box(MemoryHigh="1M"), {}, host("cpu"), 257)


@pytest.mark.parametrize("box", [Box(AllowedCPUs=[0]), Box(AllowedCPUs="")])
def test_a_job_stays_on_the_cpus_that_it_holds(box: Box) -> None:
    with pytest.raises(Unenforceable, match="AllowedCPUs: the job has CPUs of its own"):
        make_change(box, {"AssignedCPUs": "2"}, host(), 257)
    assert make_change(box, {}, host(), 257)


def test_what_systemd_is_too_old_for() -> None:
    assert properties(Box(CPUWeight="idle"), version=252) == {"CPUWeight": 0}
    with pytest.raises(Unenforceable, match="252"):
        make_change(Box(CPUWeight="idle"), {}, host(), 251)


@pytest.mark.parametrize("before", [{"Nonsense": "1"}, {"MemoryMax": "x"}, {"MemoryMax": []}, {}])
def test_a_box_that_a_job_has_made_up_is_none(before: dict[str, Any]) -> None:
    assert make_change(Box(TasksMax=1), before, host(), 257).box == {"TasksMax": "1"}
