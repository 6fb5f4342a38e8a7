"""The embedded manager's own part of the machine's cgroup tree."""

from __future__ import annotations

import os
from pathlib import Path

from sdbox.cgroup import Cgroup

_UNIT_SUFFIXES = (".scope", ".service")


def manager_root(mount: str, parent: str, name: str) -> Path:
    """Return the directory of the manager's root cgroup."""
    return Path(f"{mount}{parent}", f"sdbox-{name}")


def count_units(slice_directory: Path) -> int:
    """Return how many units have a cgroup in a slice, at any depth; 0 where there is no slice."""
    below = (name for _, names, _ in os.walk(slice_directory) for name in names)
    return sum(name.endswith(_UNIT_SUFFIXES) for name in below)


def populated(cgroup: Path) -> bool:
    """Tell whether there is a live process in the cgroup or below."""
    with Cgroup.open(str(cgroup)) as opened:
        return opened.populated


def remove(cgroup: Path, timeout: float) -> None:
    """Kill what is left in the cgroup and below, then remove all. Raises TimedOut."""
    if not cgroup.is_dir():
        return
    kill(cgroup, timeout)
    for path, names, _ in os.walk(cgroup, topdown=False):
        for name in names:
            Path(path, name).rmdir()
    cgroup.rmdir()


def kill(cgroup: Path, timeout: float) -> None:
    """Kill every process in the cgroup and below, and wait until they are dead. Raises TimedOut."""
    with Cgroup.open(str(cgroup)) as opened:
        opened.kill()
        opened.wait_empty(timeout)
