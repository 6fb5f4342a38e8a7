"""CPU time of a job without a cgroup, here by the files of a /proc that is made up."""

from __future__ import annotations

import os
import select
import subprocess
from typing import TYPE_CHECKING

import pytest

from sdbox.init import family
from sdbox.usage.family import Family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INIT = 10
TICKS = os.sysconf("SC_CLK_TCK")


class Proc:
    """A /proc of processes with their user time, and that of children that were waited for."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def put(
        self,
        pid: int,
        used: int,
        waited: int = 0,
        *,
        started: int = 1,
        state: str = "S",
        threads: int = 1,
    ) -> None:
        fields = [state, "1", *["0"] * 48]
        fields[11], fields[13], fields[19] = str(used), str(waited), str(started)
        fields[17] = str(threads)
        (self.place / f"{pid}/task/{pid}").mkdir(parents=True, exist_ok=True)
        (self.place / f"{pid}/stat").write_text(f"{pid} (a b) c) {' '.join(fields)}\n")
        self.children(pid)

    def children(self, pid: int, *pids: int) -> None:
        (self.place / f"{pid}/task/{pid}/children").write_text(" ".join(map(str, pids)))

    def end(self, pid: int) -> None:
        (self.place / f"{pid}/stat").unlink()


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    made = Proc(tmp_path)
    made.put(INIT, 1)
    return made


@pytest.fixture
def job(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """A job of three processes, one the other's parent, that were seen."""
    flags = os.O_RDONLY | os.O_DIRECTORY
    monkeypatch.setattr(family, "opened", lambda: os.open(proc.place, flags))
    proc.put(20, 20)
    proc.put(30, 30)
    proc.children(INIT, 20)
    proc.children(20, 30)
    with Family(os.pidfd_open(os.getpid()), "job", init=INIT, private_pids=False) as made:
        assert used(made) == 51
        yield made


def used(job: Family) -> int:
    seconds = job.cpu_seconds()
    assert seconds is not None
    assert job.usage().cpu_user_seconds == seconds, "looking once more changes nothing"
    return round(seconds * TICKS)


def test_time_of_who_was_waited_for_counts_once(proc: Proc, job: Family) -> None:
    proc.end(30)
    proc.put(20, 25, 35)
    assert used(job) == 61


def test_time_of_who_was_not_waited_for_counts_on(proc: Proc, job: Family) -> None:
    proc.end(30)
    proc.put(20, 25)
    assert used(job) == 56
    # And of one more, that was seen twice.
    proc.put(40, 1)
    proc.children(20, 40)
    assert used(job) == 57
    proc.put(40, 4)
    assert used(job) == 60
    proc.end(40)
    proc.children(20)
    assert used(job) == 60


def test_some_are_waited_for(proc: Proc, job: Family) -> None:
    """As far as can be told: those of another parent are."""
    proc.put(40, 5)
    proc.children(INIT, 20, 40)
    assert used(job) == 56
    proc.end(30)
    proc.end(40)
    proc.put(INIT, 1, 5)
    proc.put(20, 20)
    proc.children(INIT, 20)
    assert used(job) == 56


def test_init_waits_for_whom_it_has_inherited(proc: Proc, job: Family) -> None:
    proc.end(20)
    proc.end(30)
    proc.put(INIT, 1, 52)
    assert used(job) == 53


def test_time_that_is_handed_on_at_the_same_moment_counts_once(
    proc: Proc, job: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the children are listed, that is, and after their parent was looked at."""
    look = family.stat

    def look_and_have_it_end(of: int, pid: int) -> list[str]:
        found = look(of, pid)
        if pid == 20 and (proc.place / "30/stat").exists():
            proc.end(30)
            proc.put(20, 20, 30)
        return found

    monkeypatch.setattr(family, "stat", look_and_have_it_end)
    assert used(job) == 51


def have_it_handed_on(
    monkeypatch: pytest.MonkeyPatch, proc: Proc, ending: int, time: int, *, left: list[int]
) -> None:
    """Have a child of init's end just before it is looked at, and init wait for it."""
    look = family.stat

    def have_it_end_and_look(of: int, pid: int) -> list[str]:
        if pid == ending and (proc.place / f"{ending}/stat").exists():
            proc.end(ending)
            proc.put(INIT, 1, time)
            proc.children(INIT, *left)
        return look(of, pid)

    monkeypatch.setattr(family, "stat", have_it_end_and_look)


def test_time_that_is_handed_on_while_others_are_looked_at_counts(
    proc: Proc, job: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the last look: init, that was looked at before, is then gone before another."""
    have_it_handed_on(monkeypatch, proc, 20, 20, left=[30])
    assert used(job) == 51
    proc.end(INIT)
    assert job.cpu_seconds() is None


def test_who_was_never_seen_and_is_waited_for_meanwhile_counts(
    proc: Proc, job: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.put(40, 7)
    proc.children(INIT, 20, 40)
    have_it_handed_on(monkeypatch, proc, 40, 7, left=[20])
    assert used(job) == 58


def test_a_job_in_which_somebody_always_goes_is_measured(
    proc: Proc, job: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, each with a time of 5, and handing it on just after init was seen."""
    look, numbers = family.stat, iter(range(100, 1000))
    going = [0]

    def have_one_end_and_look(of: int, pid: int) -> list[str]:
        found = look(of, pid)
        if pid == INIT:
            if going[-1]:
                proc.end(going[-1])
            going.append(next(numbers))
            proc.put(INIT, 1, 5 * (len(going) - 2))
            proc.put(going[-1], 5)
            proc.children(INIT, 20, going[-1])
        return found

    monkeypatch.setattr(family, "stat", have_one_end_and_look)
    for _ in range(3):
        seconds = job.cpu_seconds()
        assert 51 <= round((seconds or 0) * TICKS) <= 51 + 5 * len(going)
    monkeypatch.undo()
    assert used(job) == 51 + 5 * (len(going) - 1)


def test_who_is_left_out_of_a_list_counts_on(proc: Proc, job: Family) -> None:
    proc.children(20)
    proc.put(30, 33)
    assert used(job) == 54
    proc.children(20, 30)
    assert used(job) == 54


def test_another_process_of_that_number_is_another_one(proc: Proc, job: Family) -> None:
    proc.put(30, 3, started=2)
    proc.children(20, 30)
    assert used(job) == 54
    # And none of the job where it is none of its children.
    proc.put(30, 1000, started=3)
    proc.children(20)
    assert used(job) == 54


def test_nothing_is_known_when_init_is_gone(proc: Proc, job: Family) -> None:
    proc.end(INIT)
    assert job.cpu_seconds() is None


@pytest.mark.parametrize(
    ("state", "threads", "left"),
    [("S", 1, True), ("T", 1, True), ("Z", 1, False), ("X", 1, False), ("Z", 2, True)],
)
def test_who_has_ended_is_no_member(
    proc: Proc, job: Family, state: str, threads: int, left: bool
) -> None:
    """Not waited for, being waited for, or only as far as the first thread goes."""
    proc.put(30, 30, state=state, threads=threads)
    assert job.members() == ([20, 30] if left else [20])


@pytest.mark.parametrize(("state", "rests"), [("S", False), ("T", True)])
def test_threads_that_are_left_have_to_stop(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, state: str, rests: bool
) -> None:
    monkeypatch.setattr(family, "send", lambda *_: None)
    proc.put(20, 1, state="Z", threads=2)
    proc.children(INIT, 20)
    for thread, its in ((20, "Z"), (21, state)):
        (proc.place / f"20/task/{thread}").mkdir(exist_ok=True)
        (proc.place / f"20/task/{thread}/stat").write_text(f"{thread} (a) {its} 1\n")
        (proc.place / f"20/task/{thread}/children").write_text("")
    top = os.open(proc.place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert family.stop_all(top, INIT) is rests
    finally:
        os.close(top)


def test_init_has_ended_whatever_its_number_stands_for(proc: Proc) -> None:
    """From its end on, that is, and not only from when /proc tells of it."""
    ended = subprocess.Popen(["true"])
    with Family(os.pidfd_open(ended.pid), "job", init=INIT, private_pids=False) as job:
        select.select([job.fd], [], [], 60)
        assert job.is_gone
        ended.wait()
        assert (job.is_gone, job.processes(), job.populated) == (True, [], False)
    with Family(os.pidfd_open(os.getpid()), "job", init=INIT, private_pids=False) as job:
        assert not job.is_gone
