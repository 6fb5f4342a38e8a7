"""What supervision of jobs takes of memory, in proportional set size (PSS)."""

from __future__ import annotations

from pathlib import Path

# Below a supervisor: its helper, and the helper's children, the inits. What is below those are
# the payloads, which are not ours to count.
_LEVELS = 2


def supervision(supervisor: int) -> int:
    """Return the bytes of a supervisor, its helper and its inits."""
    children = _children()
    level = [supervisor]
    total = _pss(supervisor)
    for _ in range(_LEVELS):
        level = [child for parent in level for child in children.get(parent, ())]
        total += sum(map(_pss, level))
    return total


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            stat = (directory / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # proc_pid_stat(5): after the command, in parentheses, come the state and the parent.
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(directory.name))
    return children


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
