"""The memory of a process, as far as this process may know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdbox.kernel import kcmp
from sdbox.usage import memory
from tests.waiting import wait_until


def test_a_process_that_is_gone_has_none() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    own = os.getpid()
    assert list(memory.own_memory([done.pid, own])) == [own]
    assert memory.own_memory([done.pid]) == {}
    assert memory._resident(done.pid) is None


# A thread that stays when the first one has gone.
HEADLESS = """
import ctypes, sys, threading
def stay():
    large = bytearray(50 << 20)
    print('up', flush=True)
    sys.stdin.read()
threading.Thread(target=stay).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.parametrize("may", [True, False], ids=["allowed", "refused"])
def test_a_process_whose_first_thread_has_ended(monkeypatch: pytest.MonkeyPatch, may: bool) -> None:
    if not may:
        look = open

        def refuse(path: str, **how: Any) -> object:
            # As the kernel refuses those of a set-user-ID program; that of who has ended is empty.
            if path.endswith("smaps_rollup"):
                with look(path, **how) as file:
                    if file.read():
                        raise PermissionError(path)
            return look(path, **how)

        monkeypatch.setattr(memory, "open", refuse, raising=False)
    command = [sys.executable, "-ISc", HEADLESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"up\n"
        wait_until(lambda: is_zombie(process.pid))
        (size,) = memory.own_memory([process.pid]).values()
        assert 50 << 20 < size < 80 << 20


# Two of them, one the other's child.
BOTH_HEADLESS = """
import ctypes, os, sys, threading
def stay():
    large = bytearray(50 << 20)
    print(os.getpid(), flush=True)
    sys.stdin.read()
def leave_it_to(target):
    threading.Thread(target=target).start()
    ctypes.CDLL(None).pthread_exit(None)
def part():
    stay() if os.fork() else leave_it_to(stay)
leave_it_to(part)
"""


def test_a_child_whose_first_thread_has_ended_borrows_nothing() -> None:
    """Nor where that of its parent has, too: then neither has memory to compare."""
    command = [sys.executable, "-ISc", BOTH_HEADLESS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        wait_until(lambda: all(map(is_zombie, pids)))
        assert process.pid in pids
        assert all(size > 50 << 20 for size in memory.own_memory(pids).values())
        assert len(memory.own_memory(pids)) == 2


def is_zombie(pid: int) -> bool:
    """As proc_pid_stat(5) has it, which speaks of the first thread."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_where_the_kernel_does_not_tell_nobody_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()
    assert kcmp.have_same_memory(own, own)
    assert not kcmp.have_same_memory(own, os.getppid())
    monkeypatch.setattr(kcmp, "_KCMP", {})
    assert not kcmp.have_same_memory(own, own)


def test_of_a_process_that_is_anothers_what_anybody_may_know() -> None:
    size = os.sysconf("SC_PAGE_SIZE")
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    assert memory._resident(os.getpid()) == pytest.approx((resident - shared) * size, rel=0.1)
