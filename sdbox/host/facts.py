"""What a plan must know of this host."""

from __future__ import annotations

import os

from sdbox.cgroup import controllers
from sdbox.plan.slices import SLICE
from sdbox.record import record, replaced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sdbox.systemd.endpoint import Endpoint


@record
class Host:
    """What a plan must know of the host and its manager.

    In a nestable box, jobs are in its `slice`, and their ids begin with the `prefix`.
    """

    manager: str
    controllers: frozenset[str]
    memory_total_bytes: int
    tasks_total: int
    slice: str = SLICE
    prefix: str = ""


def host_of(endpoint: Endpoint) -> Host:
    """Return what there is to know of the host, with that manager."""
    host = host_at(endpoint.kind, endpoint.cgroup_root)
    return replaced(host, slice=endpoint.slice, prefix=endpoint.prefix)


def host_at(manager: str, cgroup_root: str) -> Host:
    """As host_of(), for a manager whose cgroups begin at `cgroup_root`."""
    return Host(
        manager=manager,
        controllers=controllers(cgroup_root) if cgroup_root else frozenset(),
        memory_total_bytes=_memory_total(),
        tasks_total=_tasks_total(),
    )


def _memory_total() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _tasks_total() -> int:
    return min(map(_number, ("pid_max", "threads-max")))


def _number(name: str) -> int:
    with open(f"/proc/sys/kernel/{name}", encoding="utf-8") as file:
        return int(file.read())
