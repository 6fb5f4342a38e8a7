"""Limits that the kernel keeps, each with a job that passes it. Nothing here may be skipped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox import embedded
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

MEGABYTE = 1 << 20
HOG = "b = bytearray(300 << 20); print('has it all')"
# Takes all the CPU time that it can get, for so many seconds, from the moment on that it is told,
# or now, and says how much that was.
BURNER = """
import sys, time
print("up", flush=True)
start = float(sys.stdin.readline() or time.monotonic())
def used_at(moment):
    while time.monotonic() < moment:
        pass
    return time.process_time()
before = used_at(start)
print(used_at(start + float(sys.argv[1])) - before)
"""
# Grows by a megabyte at a time until that takes far longer than it should, or it has so many.
GROWER = """
import sys, time
memory, step = [], 0
while step < 0.5 and len(memory) < int(sys.argv[1]):
    before = time.monotonic()
    memory.append(bytearray(1 << 20))
    step = time.monotonic() - before
print(len(memory))
"""
python = (sys.executable, "-ISc")


@pytest.fixture(scope="module", params=["system", "embedded"])
def manager(request: pytest.FixtureRequest) -> Iterator[str]:
    """The option for the machine's systemd, and for one of sdbox's own below it."""
    yield f"--manager={request.param}"
    if request.param == "embedded":
        embedded.stop()


def account_of(sdbox: Sdbox, *words: str) -> tuple[int, dict[str, Any], str]:
    done = sdbox.run(*words, report=True)
    return done.status, done.account, done.err


# systemd has rules of its own for each type of unit, of which these are what a limit's end is by.
both_unit_types = pytest.mark.parametrize("unit_type", ["scope", "service"])


# The one that the kernel kills is the payload, or a child of one that does not end with it.
CHILD = f"""
import os, signal
os.fork() or exec({HOG!r}) or os._exit(0)
os.wait()[1] and signal.pause()
"""


# Every pair of the three, in half of the cases: each takes seconds on an emulated machine.
@pytest.mark.parametrize(
    ("manager", "unit_type", "script"),
    [
        ("system", "scope", HOG),
        ("system", "service", CHILD),
        ("embedded", "scope", CHILD),
        ("embedded", "service", HOG),
    ],
    indirect=["manager"],
)
def test_a_hog_is_ended_and_told_of(sdbox: Sdbox, manager: str, script: str) -> None:
    status, account, err = account_of(sdbox, manager, "--memory=64M", "--", *python, script)
    assert account["manager"] == manager.removeprefix("--manager=")
    # systemd 252 asks those that the kernel has left to end.
    assert status in (-signal.SIGKILL, -signal.SIGTERM)
    assert account["reason"] == "memory"
    assert account["signal"] == -status
    assert account["enforcement"] == {"MemoryMax": "kernel", "MemorySwapMax": "kernel"}
    assert account["memory_peak_bytes"] == pytest.approx(64 * MEGABYTE, rel=0.05)
    told = "Job has gone over memory limit of 64 megabytes. Last measured usage: "
    assert account["message"].startswith(told)
    assert "The kernel killed python3" in account["message"]
    assert err.count(told) == 1


@both_unit_types
def test_a_tmp_in_memory_counts(sdbox: Sdbox) -> None:
    """Though it may be larger than what the job may have, and holds nothing of any process."""
    limits = ("--memory=64M", "--tmp-size=1G", "--chdir=/")
    done = sdbox.sh("exec head -c 200M /dev/zero > /tmp/file", *limits, report=True)
    assert done.status in (-signal.SIGKILL, -signal.SIGTERM)
    account = done.account
    assert (account["reason"], account["memory_limit_bytes"]) == ("memory", 64 * MEGABYTE)
    assert account["enforcement"]["MemoryMax"] == "kernel"
    assert account["memory_peak_bytes"] == pytest.approx(64 * MEGABYTE, rel=0.05)


def systemd_version() -> int:
    told = subprocess.run(["systemctl", "--version"], check=True, stdout=subprocess.PIPE)
    return int(told.stdout.split()[1])


@both_unit_types
def test_a_victim_does_not_end_a_job_that_wants_to_go_on(sdbox: Sdbox) -> None:
    script = f"import os; os.fork() or exec({HOG!r}); print(os.wait()[1])"
    done = sdbox.run("--memory=64M", "--oom=continue", "--", *python, script, report=True)
    if sdbox.unit_type == "scope" and systemd_version() < 253:
        assert done.status == 125
        assert done.err.startswith("sdbox: OOMPolicy: systemd 252 can't set it on a scope.")
        return
    assert (done.status, done.out) == (0, f"{int(signal.SIGKILL)}\n")
    assert done.account["reason"] == "exited"
    assert done.account["oom_kills"] == 1


def test_swap_stays_unused(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("echo up; read line", "--memory=64M")
    assert job.line() == "up"
    assert (sdbox.cgroup(job.id) / "memory.swap.max").read_text() == "0\n"
    job.send(b"\n")
    assert job.end().status == 0


def test_a_soft_limit_slows_down(sdbox: Sdbox) -> None:
    """And does not kill: the nearer to a stop, the further it is passed."""
    limits = ("--memory-high=64M", "--swap=0")
    done = sdbox.run(*limits, "--", *python, GROWER, "300", report=True)
    assert (done.status, done.account["reason"]) == (0, "exited")
    assert 40 < int(done.out) < 80, "megabytes, where it was slowed down"
    assert done.account["memory_pressure_seconds"] > 0.5
    assert done.account["oom_kills"] == 0


def test_without_a_limit_it_is_not_slowed_down(sdbox: Sdbox) -> None:
    done = sdbox.run("--", *python, GROWER, "300", report=True)
    assert (done.status, done.out) == (0, "300\n")
    assert done.account["memory_pressure_seconds"] < 0.5


def test_a_reader_is_charged_no_page_cache(sdbox: Sdbox) -> None:
    # On a disk, and all hole: the page cache takes that for contents.
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        file.truncate(256 * MEGABYTE)
        script = f"exec cat {file.name} > /dev/null"
        status, account, _ = account_of(sdbox, "--memory=128M", "--", "sh", "-c", script)
    assert (status, account["reason"]) == (0, "exited")
    assert account["memory_cgroup_peak_bytes"] > 64 * MEGABYTE, "the file went through it"
    assert account["memory_peak_bytes"] < 32 * MEGABYTE


@both_unit_types
def test_a_fork_bomb_stops_at_its_limit(sdbox: Sdbox) -> None:
    script = """
import os, signal
children = 0
try:
    while True:
        if os.fork() == 0:
            signal.pause()
        children += 1
except BlockingIOError:
    print(children)
"""
    done = sdbox.run("--tasks=20", "--", *python, script, report=True)
    # Two of the twenty are init and the payload itself.
    assert (done.status, done.out) == (0, "18\n")
    assert done.account["tasks_peak"] == 20


def test_a_quota_of_half_a_cpu(sdbox: Sdbox) -> None:
    done = sdbox.run("--cpu-quota=50%", "--", *python, BURNER, "5", report=True)
    assert float(done.out.split()[1]) / 5 == pytest.approx(0.5, abs=0.05)
    assert done.account["cpu_throttled_seconds"] > 1


def test_weights_share_a_cpu(sdbox: Sdbox) -> None:
    # An emulated processor on a busy machine may run one of them for a second on end.
    length = str(seconds(3))
    jobs = [
        sdbox.start("--allowed-cpus=0", f"--cpu-weight={weight}", "--", *python, BURNER, length)
        for weight in (100, 300)
    ]
    assert [job.line() for job in jobs] == ["up", "up"]
    # For both at the same time: who is alone has all of it.
    start = time.monotonic() + seconds(0.5)
    for job in jobs:
        job.send(f"{start}\n".encode())
    light, heavy = (float(job.end().out) for job in jobs)
    assert heavy / light == pytest.approx(3, rel=0.15)


def test_allowed_cpus_can_not_be_undone(sdbox: Sdbox) -> None:
    script = """
import os
os.sched_setaffinity(0, range(os.cpu_count()))
print(os.sched_getaffinity(0))
"""
    done = sdbox.run("--allowed-cpus=0", "--", *python, script)
    assert (os.cpu_count() or 1) > 1
    assert done.out == "{0}\n"


@pytest.fixture
def narrow_slice() -> Iterator[str]:
    """A slice that has one CPU, and whose cgroup is not there before a unit is in it."""
    name = "sdboxtest.slice"
    file = Path("/run/systemd/system", name)
    file.write_text("[Slice]\nAllowedCPUs=1\n")
    try:
        _systemctl("daemon-reload")
        yield name
    finally:
        _systemctl("stop", name)
        file.unlink()
        _systemctl("daemon-reload")


def _systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], check=True, timeout=seconds(30))


@both_unit_types
def test_cpus_that_a_slice_does_not_have(sdbox: Sdbox, narrow_slice: str) -> None:
    """Which no file of the job's own cgroup tells but one: the others have what was asked for."""
    within = f"--slice={narrow_slice}"
    for asked in ("--cpus=0-0", "--cpus=2", "--allowed-cpus=0"):
        _systemctl("stop", narrow_slice)
        done = sdbox.run(within, asked, "--", "true")
        assert (done.status, done.err.count("\n")) == (125, 1)
        assert "the kernel lets it have CPUs 1, where 0" in done.err
    shown = "grep Cpus_allowed_list /proc/self/status"
    assert sdbox.sh(shown, within, "--allowed-cpus=0-1").out.split()[1] == "1"
    _systemctl("start", narrow_slice)
    assert sdbox.sh(shown, within, "--cpus=1").out.split()[1] == "1"


def test_a_limit_of_a_disks_bandwidth(sdbox: Sdbox) -> None:
    # Around the page cache, so that each byte comes from the device.
    script = """
import mmap, os, time
fd = os.open("/dev/vda", os.O_RDONLY | os.O_DIRECT)
buffer, start = mmap.mmap(-1, 1 << 20), time.monotonic()
for _ in range(8):
    os.readv(fd, [buffer])
print(time.monotonic() - start)
"""
    limit = "IOReadBandwidthMax=/dev/vda 2M"
    done = sdbox.run("-p", limit, "--", *python, script, report=True)
    # 8 MiB at 2 MB a second; the kernel lets the first slice of time through.
    assert float(done.out) > 3
    assert done.account["io_read_bytes"] >= 8 * MEGABYTE
    assert json.dumps(done.account["enforcement"]) == '{"IOReadBandwidthMax": "kernel"}'
