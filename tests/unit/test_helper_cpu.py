"""The supervisor goes to another CPU where its helper would have to wait for its own."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sdbox.launch.helper import leave_cpu_to
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

CPUS = os.sched_getaffinity(0)
FIRST = min(CPUS)

pytestmark = pytest.mark.skipif(len(CPUS) < 2, reason="this machine has one CPU")


@pytest.fixture
def child() -> Iterator[int]:
    """A process that has run on the first CPU alone; this one may run on all, before and after."""
    command = ["sh", "-c", "echo; exec sleep 600"]
    pinned = {"preexec_fn": lambda: os.sched_setaffinity(0, {FIRST})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **pinned) as process:  # type: ignore[call-overload]
        assert process.stdout.read(1) == b"\n"
        yield process.pid
        os.sched_setaffinity(0, CPUS)
        process.kill()


def leaves_it(child: int, own: int) -> bool:
    """Be on a CPU, free to leave it, as long as the kernel does not think otherwise."""
    os.sched_setaffinity(0, {own})
    os.sched_setaffinity(0, CPUS)
    return leave_cpu_to(child)


def test_it_leaves_the_cpu_of_its_child_and_may_run_where_it_might(child: int) -> None:
    wait_until(lambda: leaves_it(child, FIRST))
    assert os.sched_getaffinity(0) == CPUS


def test_it_stays_where_its_child_is_not(child: int) -> None:
    wait_until(lambda: not leaves_it(child, max(CPUS)))
    assert os.sched_getaffinity(0) == CPUS


def test_it_stays_where_there_is_no_other(child: int) -> None:
    os.sched_setaffinity(0, {FIRST})
    assert not leave_cpu_to(child)
    assert os.sched_getaffinity(0) == {FIRST}


def test_a_child_that_is_gone_needs_no_cpu() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not leave_cpu_to(gone.pid)
