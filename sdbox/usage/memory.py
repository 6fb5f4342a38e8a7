"""What processes have of memory that is their own: anonymous and shared, and no page cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdbox.init import family

if TYPE_CHECKING:
    from collections.abc import Collection

# Of /proc/PID/smaps_rollup, in KiB: what is the process's alone, its share of what it shares with
# others, and the same that is in swap.
_OWN = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")
# proc_pid_stat(5), from the field after the name on; and one of the flags, of the kernel's sched.h.
_PARENT, _FLAGS = 1, 6
_PF_FORKNOEXEC = 0x40


def own_memory(pids: Collection[int]) -> dict[int, int]:
    """Return the bytes of each process's own memory, by PID; nothing for those that are gone.

    A child that has all its memory together with its parent, as after vfork(2), is left out.
    """
    # First, since who borrows may have called execve(2) by when he is measured, but not vice versa.
    borrowers = _borrowers(set(pids)) if len(pids) > 1 else ()
    lenders = (pid for pid in pids if pid not in borrowers)
    return {pid: size for pid in lenders if (size := _measured(pid)) is not None}


def _borrowers(pids: set[int]) -> set[int]:
    proc = family.opened()
    try:
        return {pid for pid in pids if _borrows(proc, pid, pids)}
    finally:
        os.close(proc)


def _borrows(proc: int, pid: int, others: set[int]) -> bool:
    """Whether a process has the very memory of its parent, which is one of the others."""
    fields = family.stat(proc, pid)
    if not fields or not int(fields[_FLAGS]) & _PF_FORKNOEXEC:
        return False
    parent = int(fields[_PARENT])
    if parent not in others or "Z" in (fields[0], *family.stat(proc, parent)[:1]):
        # Of a process whose first thread has ended the kernel would compare nothing.
        return False
    from sdbox.kernel import kcmp  # here, since few have forked and not called execve(2)

    return kcmp.have_same_memory(pid, parent)


def _measured(pid: int) -> int | None:
    size = _of_task(pid)
    if not size:
        # Its first thread, which speaks for all of it, may have ended before the others.
        size = next(filter(None, map(_of_task, _threads(pid))), None)
    return size


def _threads(pid: int) -> list[int]:
    try:
        return [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _of_task(task: int) -> int | None:
    try:
        with open(f"/proc/{task}/smaps_rollup", encoding="utf-8", errors="replace") as lines:
            fields = [line.split() for line in lines]
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        # A set-user-ID program is none of its starter's business.
        return _resident(task)
    return sum(int(number) for name, number, *_ in fields if name in _OWN) * 1024


def _resident(task: int) -> int | None:
    """Return what anybody may know: what is in memory and of no file."""
    import psutil  # here, since few jobs have such programs

    try:
        memory = psutil.Process(task).memory_info()
    except psutil.Error:
        return None
    return memory.rss - memory.shared


def process_name(pid: int) -> str:
    """Return a process's name, whole where /proc/PID/comm cuts it short."""
    # Only who has passed a limit pays for it.
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"
