"""The cgroups of all jobs of a manager, found in one walk of its tree, and a cheap look at each."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox.cgroup import Cgroup, CgroupError
from sdbox.management.memo import Memo, recall
from sdbox.plan.slices import owns
from sdbox.record import record
from sdbox.usage.memory import own_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "sdbox-"
SUFFIXES = (".scope", ".service")


@record
class Group:
    """One look at a job's cgroup. Figures that nobody keeps here are None; all where it is gone.

    `path` is from the manager's root, as ControlGroup= has it. `freezer_state` is in systemd's
    words, and `frozen_by` the slice above that is frozen, if one is. Memory is the job's own,
    anonymous and shared.
    """

    path: str | None = None
    freezer_state: str | None = None
    frozen_by: str | None = None
    tasks: int | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    memo: Memo | None = None


@record
class Place:
    """Where a job's cgroup is, and the slice above it that is frozen, if one is."""

    unit: str
    path: str
    frozen_by: str | None


def is_job(unit: str) -> bool:
    """Whether that is the name of a unit of ours."""
    return unit.startswith(PREFIX) and unit.endswith(SUFFIXES)


def job_of(unit: str) -> str:
    """Return the id of the job that a unit is of."""
    return unit.removeprefix(PREFIX).rpartition(".")[0]


def places(root: str) -> Iterator[Place]:
    """Find the cgroups of jobs below a manager's root."""
    yield from _below(root, "", None)


def _below(root: str, path: str, frozen_by: str | None) -> Iterator[Place]:
    for name in _children(root + path):
        below = f"{path}/{name}"
        if is_job(name):
            yield _place(name, path, frozen_by)
        elif name.endswith(".slice"):
            # What is below a unit is no unit of this manager's.
            yield from _below(root, below, frozen_by or _frozen(root + below, name))


def _place(unit: str, path: str, frozen_by: str | None) -> Place:
    """Return where a job is that has a unit in the cgroup of that path: there, or all of it."""
    above = os.path.basename(path)
    if not owns(above, job_of(unit)):
        return Place(unit=unit, path=f"{path}/{unit}", frozen_by=frozen_by)
    return Place(unit=unit, path=path, frozen_by=None if frozen_by == above else frozen_by)


def _children(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        # It has gone meanwhile.
        return []


def _frozen(directory: str, name: str) -> str | None:
    with contextlib.suppress(CgroupError), Cgroup.open(directory) as cgroup:
        return name if cgroup.value("cgroup.freeze") else None
    return None


def look(root: str, place: Place | None) -> Group:
    """Look at a job."""
    if place is None:
        return Group()
    with contextlib.suppress(CgroupError), Cgroup.open(root + place.path) as cgroup:
        return Group(
            path=place.path,
            freezer_state=_freezer_state(cgroup, place.frozen_by),
            frozen_by=place.frozen_by,
            tasks=tasks(cgroup),
            cpu_seconds=cgroup.cpu_seconds(),
            memory_bytes=counted_memory(cgroup),
            memo=recall(cgroup.fd),
        )
    return Group()


def _freezer_state(cgroup: Cgroup, frozen_by: str | None) -> str:
    own = bool(cgroup.value("cgroup.freeze"))
    frozen = bool((cgroup.flat("cgroup.events") or {}).get("frozen"))
    if frozen_by is not None:
        # Its own is no matter: up to systemd 255 a slice that is frozen freezes all below it, too.
        return "frozen-by-parent" if frozen else "freezing-by-parent"
    return _FREEZER_STATES[own, frozen]


# By cgroup.freeze and cgroup.events.
_FREEZER_STATES = {
    (False, False): "running",
    (False, True): "thawing",
    (True, False): "freezing",
    (True, True): "frozen",
}


def tasks(cgroup: Cgroup) -> int | None:
    """Tasks in a cgroup, by whoever counts them."""
    counted = cgroup.value("pids.current")
    return cgroup.tasks() if counted is None else counted


def counted_memory(cgroup: Cgroup) -> int | None:
    """The job's own memory as the kernel counts it, None where it does not."""
    stat = cgroup.flat("memory.stat")
    return None if stat is None else stat["anon"] + stat["shmem"]


def measured_memory(cgroup: Cgroup) -> int:
    """The same measured, process by process: for where the kernel does not count."""
    return sum(own_memory(cgroup.processes()).values())
