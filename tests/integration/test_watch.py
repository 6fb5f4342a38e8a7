"""Limits that sdbox keeps by measuring, on real jobs; where the kernel has them, they are its."""

from __future__ import annotations

import mmap
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Outcome, Sdbox, Site

MIB = 1 << 20
LIMIT = 64 * MIB
# For how long a job may be over its limit, where nothing hangs; tests/bench/ends.py measures it.
MOST_SECONDS = seconds(30)
WATCHED = "sdbox: {}: kept by watching, which is weaker than the kernel; `sdbox doctor` tells why"

PYTHON = (sys.executable, "-ISc")
# Tells the time before it takes what brings it over 64 megabytes, and goes on to 300.
HOG = """
import signal, time
small = bytearray(32 << 20)
print(time.time(), flush=True)
hog = bytearray(32 << 20), bytearray(236 << 20)
signal.pause()
"""
# Memory that several processes could have in common: it is in no process's anonymous memory.
SHARED_HOG = """
import mmap, signal, time
print(time.time(), flush=True)
hog = mmap.mmap(-1, 300 << 20)
for page in range(0, 300 << 20, 4096):
    hog[page] = 1
signal.pause()
"""
# What speaks for a process in /proc is its first thread, which may be the first to end.
HEADLESS_HOG = """
import ctypes, signal, threading, time
def grow():
    print(time.time(), flush=True)
    hog = bytearray(300 << 20)
    signal.pause()
threading.Thread(target=grow).start()
ctypes.CDLL(None).pthread_exit(None)
"""
# Between a shell that waits for it and one that would go on after it.
AS_GRANDCHILD = """sh -c '"$@"; exec sleep 600' - "$@"; exec sleep 600"""

# More than the limit, in files, for several rounds of a watch.
READER = 'for round in 1 2 3; do cat "$0" >/dev/null; done; sleep 0.6'
MAPPER = """
import mmap, sys, time
file = open(sys.argv[1], 'rb')
pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
assert len(pages[::4096]) == len(pages) // 4096
time.sleep(0.6)
"""
# 40 megabytes that four processes have in common.
FORKER = """
import os, time
common = bytearray(40 << 20)
for _ in range(2):
    os.fork()
time.sleep(0.6)
"""
# 40 megabytes that a process and its child have by one and the same address space, until that child
# calls execve(2): it waits for another one, which opens the other end of a pipe.
BORROWER = """
import os, tempfile, time
with tempfile.TemporaryDirectory() as place:
    pipe = f'{place}/pipe'
    os.mkfifo(pipe)
    opener = os.fork()
    if not opener:
        time.sleep(0.6)
        os.close(os.open(pipe, os.O_WRONLY))
        os._exit(0)
    large = bytearray(40 << 20)
    actions = [(os.POSIX_SPAWN_OPEN, 0, pipe, os.O_RDONLY, 0)]
    child = os.posix_spawn('/bin/true', ['true'], {}, file_actions=actions)
    for pid in (child, opener):
        assert os.waitpid(pid, 0)[1] == 0
"""
BURNERS = "for i in 1 2 3 4; do (while :; do :; done) & done; "


def kept(site: Site, controller: str) -> str:
    return "kernel" if controller in site.controllers else "watch"


def told(done: Outcome) -> list[str]:
    """What the command said, without the line of each launch that is kept by watching."""
    return [line for line in done.err.splitlines() if "kept by watching" not in line]


def test_who_keeps_a_limit(sdbox: Sdbox, job_site: Site) -> None:
    limits = ("--memory=64M", "--tasks=20", "--cpu-time=1h")
    done = sdbox.run(*limits, "--", "true", report=True)
    assert done.status == 0
    enforcement = done.account["enforcement"]
    assert enforcement["MemoryMax"] == kept(job_site, "memory")
    assert enforcement["TasksMax"] == kept(job_site, "pids")
    assert enforcement["CPUTimeMaxSec"] == "watch"
    weak = [name for name in ("MemoryMax", "TasksMax") if enforcement[name] == "watch"]
    # CPU time is sdbox's to keep on every host: there is nothing to mend.
    assert done.err == (WATCHED.format(", ".join(weak)) + "\n" if weak else "")


@pytest.mark.parametrize(
    "hog", [HOG, SHARED_HOG, HEADLESS_HOG], ids=["anonymous", "shared", "first thread ended"]
)
def test_a_hog_is_ended_in_time(sdbox: Sdbox, job_site: Site, hog: str) -> None:
    done = sdbox.run("--memory=64M", "--", *PYTHON, hog, report=True)
    assert done.status == -signal.SIGKILL
    account = done.account
    assert (account["reason"], account["exit_code"]) == ("memory", None)
    assert account["signal"] == signal.SIGKILL
    assert account["ended_at"] - float(done.out) < MOST_SECONDS
    assert account["enforcement"]["MemoryMax"] == kept(job_site, "memory")
    assert account["memory_limit_bytes"] == LIMIT
    assert account["message"].startswith("Job has gone over memory limit of 64 megabytes. ")
    assert told(done) == [f"sdbox: {account['message']}"]


@pytest.mark.needs_no_controller("memory")
def test_what_a_watch_tells_of_a_hog(sdbox: Sdbox) -> None:
    done = sdbox.run("--memory=64M", "--", *PYTHON, HOG, report=True)
    form = (
        r"Job has gone over memory limit of 64 megabytes\. Last measured usage: (\d+) megabytes\."
        rf" Largest process: {re.escape(Path(sys.executable).name)} \(PID \d+, (\d+) megabytes\)\."
    )
    account = done.account
    found = re.fullmatch(form, account["message"])
    assert found is not None, account["message"]
    used, largest = map(int, found.groups())
    assert 64 <= largest <= used < 330
    assert account["memory_peak_bytes"] // MIB == used
    assert done.err.splitlines() == [WATCHED.format("MemoryMax"), f"sdbox: {account['message']}"]
    # These are the kernel's figures, and it has none.
    assert account["memory_cgroup_peak_bytes"] is account["oom_kills"] is None


def test_a_hog_as_a_grandchild_ends_the_job(sdbox: Sdbox) -> None:
    words = ("--", "sh", "-c", AS_GRANDCHILD, "-", *PYTHON, HOG)
    done = sdbox.run("--memory=64M", *words, report=True)
    assert done.status == -signal.SIGKILL
    account = done.account
    assert account["reason"] == "memory"
    assert account["ended_at"] - float(done.out) < MOST_SECONDS
    assert Path(sys.executable).name in account["message"]
    assert told(done) == [f"sdbox: {account['message']}"]


def test_the_limit_is_of_all_processes_together(sdbox: Sdbox) -> None:
    each = "import signal; hog = bytearray(40 << 20); signal.pause()"
    words = ("--", "sh", "-c", '"$@" & "$@" & wait', "-", *PYTHON, each)
    done = sdbox.run("--memory=64M", *words, report=True)
    assert done.status == -signal.SIGKILL
    assert done.account["reason"] == "memory"


@pytest.mark.parametrize("job", [FORKER, BORROWER], ids=["fork", "vfork"])
def test_what_processes_share_counts_once(sdbox: Sdbox, job: str) -> None:
    done = sdbox.run("--memory=64M", "--", *PYTHON, job, report=True)
    assert (done.status, done.account["reason"]) == (0, "exited")
    assert 40 * MIB < done.account["memory_peak_bytes"] < LIMIT


@pytest.fixture(scope="module")
def large_file() -> Iterator[Path]:
    """Twice the limit, and not in /tmp: that may be in memory itself."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        for _ in range(128):
            file.write(bytes([1]) * MIB)
        file.flush()
        yield Path(file.name)


def shared_memory() -> int:
    """What this process has of files in memory, in KiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Shmem:"))


def is_in_memory(path: Path) -> bool:
    """Whether a file's pages are no cache of a disk's: tmpfs, or what is laid over it."""
    before = shared_memory()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        assert pages[::4096]
        return shared_memory() > before


def test_a_reader_of_page_cache_goes_on(sdbox: Sdbox, large_file: Path) -> None:
    done = sdbox.run("--memory=64M", "--", "sh", "-c", READER, str(large_file), report=True)
    assert (done.status, done.account["reason"]) == (0, "exited")
    assert done.account["memory_peak_bytes"] < LIMIT / 4
    assert told(done) == []


def test_files_that_are_mapped_are_page_cache_too(sdbox: Sdbox, large_file: Path) -> None:
    if is_in_memory(large_file):
        pytest.skip("/var/tmp is in memory here")
    words = ("--", *PYTHON, MAPPER, str(large_file))
    done = sdbox.run("--memory=64M", *words, report=True)
    assert (done.status, done.account["reason"]) == (0, "exited")
    assert done.account["memory_peak_bytes"] < LIMIT / 2


def test_cpu_time_is_of_the_whole_tree(sdbox: Sdbox) -> None:
    done = sdbox.sh(BURNERS + "wait", "--cpu-time=1s", report=True)
    assert done.status == -signal.SIGTERM
    account = done.account
    assert (account["reason"], account["signal"]) == ("cpu-time", signal.SIGTERM)
    assert account["message"] == "Job has gone over CPU time limit of 1 seconds."
    assert account["enforcement"] == {"CPUTimeMaxSec": "watch"}
    assert 1 <= account["cpu_user_seconds"] + account["cpu_system_seconds"] < 2.5
    assert done.err == f"sdbox: {account['message']}\n"


def test_a_job_out_of_cpu_time_is_asked_first(sdbox: Sdbox) -> None:
    script = "trap 'echo asked; exit 5' TERM; " + BURNERS + "wait"
    done = sdbox.sh(script, "--cpu-time=300ms", report=True)
    assert (done.status, done.out) == (5, "asked\n")
    assert (done.account["reason"], done.account["exit_code"]) == ("cpu-time", 5)


def test_a_job_out_of_cpu_time_that_does_not_mind(sdbox: Sdbox) -> None:
    script = "trap '' TERM; while :; do :; done"
    done = sdbox.sh(script, "--cpu-time=300ms", "--stop-timeout=200ms", report=True)
    assert done.status == -signal.SIGKILL
    assert done.account["reason"] == "cpu-time"


def test_a_job_within_its_cpu_time(sdbox: Sdbox) -> None:
    done = sdbox.sh("sleep 0.4; exit 3", "--cpu-time=10s", report=True)
    assert (done.status, done.account["reason"]) == (3, "exited")
    assert done.err == ""


LOOKER = """
import signal
signal.signal(signal.SIGTERM, lambda number, frame: print('TERM', flush=True))
print('up', flush=True)
while True:
    signal.pause()
"""


def test_wall_time_of_a_payload_that_only_looks_at_the_signal(sdbox: Sdbox) -> None:
    # Time enough to begin to look, also where a processor is emulated.
    limits = ("--wall=2s", "--stop-timeout=500ms")
    done = sdbox.run(*limits, "--", *PYTHON, LOOKER, report=True)
    assert done.status == -signal.SIGKILL
    assert done.out == "up\nTERM\n", "asked once, and before it was killed"
    account = done.account
    assert (account["reason"], account["signal"]) == ("wall-time", signal.SIGKILL)
    assert account["message"] == "Job has gone over wall time limit of 2 seconds."
    assert account["wall_seconds"] >= 2.4
    assert account["enforcement"]["RuntimeMaxSec"] == "manager"
    assert done.err == f"sdbox: {account['message']}\n"


def test_wall_time_of_a_payload_that_is_quick(sdbox: Sdbox) -> None:
    done = sdbox.run("--wall=300ms", "--", "sleep", "600", report=True)
    assert done.status == -signal.SIGTERM
    assert (done.account["reason"], done.account["signal"]) == ("wall-time", signal.SIGTERM)


def test_wall_time_with_another_signal(sdbox: Sdbox) -> None:
    script = "trap 'echo INT; exit 4' INT; trap 'echo TERM' TERM; sleep 600 & wait"
    done = sdbox.sh(script, "--wall=300ms", "--stop-signal=INT", report=True)
    assert (done.status, done.out) == (4, "INT\n")
    assert (done.account["reason"], done.account["exit_code"]) == ("wall-time", 4)


THREADS = """
import threading, signal
for _ in range(30):
    threading.Thread(target=signal.pause, daemon=True).start()
signal.pause()
"""


@pytest.mark.needs_no_controller("pids")
@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 600 & sleep 600 & done; wait"),
        (*PYTHON, THREADS),
    ],
    ids=["processes", "threads"],
)
def test_too_many_tasks_are_ended(sdbox: Sdbox, command: tuple[str, ...]) -> None:
    done = sdbox.run("--tasks=15", "--", *command, report=True)
    assert done.status == -signal.SIGKILL
    account = done.account
    assert account["reason"] == "killed"
    form = r"Job has gone over limit of 15 tasks\. Last count: (\d+)\."
    found = re.fullmatch(form, account["message"])
    assert found is not None, account["message"]
    assert 15 < int(found[1]) <= 35
    assert account["enforcement"] == {"TasksMax": "watch"}
    assert done.err.splitlines() == [WATCHED.format("TasksMax"), f"sdbox: {account['message']}"]


def test_a_job_within_its_tasks(sdbox: Sdbox) -> None:
    script = "for i in 1 2 3 4 5; do sleep 0.4 & done; wait; exit 6"
    done = sdbox.sh(script, "--tasks=15", report=True)
    assert (done.status, done.account["reason"]) == (6, "exited")
