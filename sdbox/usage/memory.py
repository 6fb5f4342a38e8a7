"""What a process has of memory that is its own: anonymous and shared, and no page cache."""

from __future__ import annotations

# Of /proc/PID/smaps_rollup, in KiB: what is the process's alone, its share of what it shares with
# others, and the same that is in swap.
_OWN = ("Pss_Anon:", "Pss_Shmem:", "SwapPss:")


def own_memory(pid: int) -> int | None:
    """Return the bytes of a process's own memory; None for a process that is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8", errors="replace") as lines:
            fields = [line.split() for line in lines]
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:
        # A set-user-ID program is none of its starter's business.
        return _resident(pid)
    return sum(int(number) for name, number, *_ in fields if name in _OWN) * 1024


def _resident(pid: int) -> int | None:
    """Return what anybody may know: what is in memory and of no file."""
    import psutil  # here, since few jobs have such programs

    try:
        memory = psutil.Process(pid).memory_info()
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
