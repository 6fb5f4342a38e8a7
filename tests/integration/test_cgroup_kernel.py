"""cgroup.py against the kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import loop
from sdbox.cgroup import Cgroup, CgroupError, path_of
from sdbox.embedded import cgroups
from sdbox.errors import TimedOut
from sdbox.init import cleanup
from sdbox.result import Usage
from tests.pace import seconds
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import Site

    Start = Callable[..., subprocess.Popen[bytes]]

SECONDS = seconds(20)
NOBODY = 65534


@pytest.fixture
def directory(site: Site) -> Iterator[Path]:
    directory = Path(site.cgroup_root, f"test-{os.getpid()}")
    directory.mkdir()
    yield directory
    with Cgroup.open(str(directory)) as cgroup:
        cgroup.kill()
        cgroup.wait_empty(SECONDS)
    for below, _, _ in os.walk(directory, topdown=False):
        Path(below).rmdir()


@pytest.fixture
def cgroup(directory: Path) -> Iterator[Cgroup]:
    with Cgroup.open(str(directory)) as cgroup:
        yield cgroup


@pytest.fixture
def start(directory: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, below: str = ".", user: int | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command or ("sleep", "600"), user=user)
        started.append(process)
        (directory / below).mkdir(parents=True, exist_ok=True)
        (directory / below / "cgroup.procs").write_text(str(process.pid))
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def kill_and_remove(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Remove a cgroup as soon as the kernel lets it go, sooner than it notifies of its end."""
    process.kill()
    while True:
        try:
            directory.rmdir()
        except OSError:
            continue
        return


def test_processes_of_the_whole_tree(cgroup: Cgroup, start: Start) -> None:
    assert cgroup.processes() == []
    started = {start(below=below).pid for below in (".", "a", "a/b", "c")}
    assert set(cgroup.processes()) == started


def test_populated_follows_the_processes(cgroup: Cgroup, start: Start) -> None:
    assert not cgroup.populated
    process = start(below="a")
    assert cgroup.populated
    process.kill()
    cgroup.wait_empty(SECONDS)
    assert not cgroup.populated


def test_path_of(directory: Path, site: Site, start: Start) -> None:
    path = path_of(start().pid)
    assert path is not None
    assert path.endswith(directory.relative_to(site.cgroup_root).as_posix())


def test_kill_takes_the_tree(cgroup: Cgroup, start: Start) -> None:
    processes = [start(below=below) for below in (".", "a", "a/b")]
    cgroup.kill()
    assert [process.wait(SECONDS) for process in processes] == [-9, -9, -9]


def as_nobody(work: Callable[[], object]) -> int:
    """Have another user do this; return the exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(NOBODY)
            # As a helper and an init have it.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    "end",
    [
        lambda cgroup: cleanup.kill(cgroup.fd, time.monotonic() + SECONDS),
        lambda cgroup: loop.run(cgroup.end(SECONDS)),
    ],
    ids=["helper", "supervisor"],
)
def test_who_may_not_kill_all_at_once_kills_one_after_the_other(
    cgroup: Cgroup, start: Start, end: Callable[[Cgroup], object]
) -> None:
    own = [start(below=below, user=NOBODY) for below in (".", "a")]
    assert as_nobody(lambda: end(cgroup)) == 0
    assert [process.wait(SECONDS) for process in own] == [-9, -9]


def test_what_is_another_users_is_not_waited_for_for_ever(cgroup: Cgroup, start: Start) -> None:
    own, other = start(user=NOBODY), start()
    assert as_nobody(lambda: cleanup.kill(cgroup.fd, time.monotonic() + 0.2)) == 0
    assert own.wait(SECONDS) == -9
    assert other.poll() is None


def test_kill_of_a_frozen_tree_that_forks(cgroup: Cgroup, start: Start) -> None:
    forker = start("sh", "-c", "while :; do sleep 0.01 & done", below="a")
    cgroup.write("cgroup.freeze", "1")
    wait_until(lambda: cgroup.flat("cgroup.events") == {"populated": 1, "frozen": 1})
    cgroup.kill()
    cgroup.wait_empty(SECONDS)
    assert forker.wait(SECONDS) == -9


def test_waiting_has_an_end(cgroup: Cgroup, start: Start) -> None:
    start()
    with pytest.raises(TimedOut, match="still has processes"):
        cgroup.wait_empty(0.05)


async def test_waiting_has_an_end_in_a_loop(cgroup: Cgroup, start: Start) -> None:
    start()
    with pytest.raises(TimedOut, match="still has processes"):
        await cgroup.wait_empty_async(0.05)


async def test_wait_in_a_loop(cgroup: Cgroup, start: Start) -> None:
    process = start()
    waiting = asyncio.create_task(cgroup.wait_empty_async(SECONDS))
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    process.kill()
    await waiting


@pytest.mark.parametrize(
    "wait",
    [
        lambda cgroup, end: asyncio.run(cgroup.wait_empty_async(end - time.monotonic())),
        lambda cgroup, end: cgroup.wait_empty(end - time.monotonic()),
        lambda cgroup, end: cleanup.empty(cgroup.fd, end),
    ],
    ids=["the supervisor", "who stops the embedded manager", "the helper"],
)
def test_wait_wakes_when_the_cgroup_is_removed_at_once(
    cgroup: Cgroup, start: Start, wait: Callable[[Cgroup, float], object]
) -> None:
    # The kernel drops the notification then: see RECHECK_SECONDS.
    process = start()
    killer = threading.Thread(target=kill_and_remove, args=(process, Path(cgroup.name)))
    end = time.monotonic() + SECONDS
    killer.start()
    wait(cgroup, end)
    assert time.monotonic() < end
    killer.join()
    Path(cgroup.name).mkdir()


def test_a_cgroup_that_is_gone(cgroup: Cgroup) -> None:
    Path(cgroup.name).rmdir()
    # Another one of the same name is not this one.
    Path(cgroup.name).mkdir()
    assert cgroup.processes() == []
    assert cgroup.usage() == Usage()
    assert not cgroup.populated
    cgroup.wait_empty(SECONDS)
    cgroup.kill()


def test_usage_counts_the_tree(cgroup: Cgroup, start: Start) -> None:
    start("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done", below="a").wait()
    usage = cgroup.usage()
    assert usage.cpu_user_seconds is not None
    assert usage.cpu_user_seconds > 0.01


def test_what_does_not_die_is_told(
    cgroup: Cgroup, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(below="a")
    with monkeypatch.context() as patched:
        patched.setattr(Cgroup, "kill", lambda cgroup: None)
        with pytest.raises(TimedOut, match="still has processes"):
            cgroups.remove(Path(cgroup.name), 0.05)
    assert cgroup.populated


def test_a_tree_is_killed_and_removed(cgroup: Cgroup, start: Start) -> None:
    processes = [start(below=below) for below in (".", "a/b")]
    assert cgroups.populated(Path(cgroup.name))
    cgroups.remove(Path(cgroup.name), SECONDS)
    assert [process.wait(SECONDS) for process in processes] == [-9, -9]
    assert not Path(cgroup.name).exists()
    Path(cgroup.name).mkdir()


def test_a_refused_write_says_what_and_where(cgroup: Cgroup) -> None:
    with pytest.raises(CgroupError, match=r"test-.*cgroup\.freeze.*Invalid argument"):
        cgroup.write("cgroup.freeze", "x")


def test_nothing_stays_open(cgroup: Cgroup, start: Start) -> None:
    start(below="a/b").kill()
    before = os.listdir("/proc/self/fd")
    cgroup.wait_empty(SECONDS)
    cgroup.processes()
    cgroup.usage()
    assert os.listdir("/proc/self/fd") == before
