"""One launch, worked out: what a supervisor needs to know of it. Plain data.

A plan is made by `sdbox.plan.planner`, which may be another process's work: see `to_plain`.
"""

from __future__ import annotations

import os

from sdbox.errors import Unenforceable
from sdbox.properties import CgroupFile, OwnSlice, UnitProperty
from sdbox.record import record, values_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sdbox.properties import UnitType
    from sdbox.result import Enforcement

UNIT_TYPES: tuple[UnitType, ...] = ("scope", "service")
# The first systemd that has it.
_OOM_POLICY_SINCE: Mapping[UnitType, int] = {"scope": 253, "service": 243}


@record
class Plan:
    """What will be done, and how it is kept. `unit` and `cgroup` follow from job and slice.

    `box` is what was asked for, as JSON has it. `files` is what to read back of the cgroup,
    `needs` the systemd version that a directive needs, `watched` the limits that are kept by
    watching. Limits are None where there are none; `spec` is init's part (see sdbox.plan.spec);
    `cpus` are those that were assigned to the job, and `programs` what has to be attached to the
    cgroup (see sdbox.kernel.bpf). A job that others may be started inside of has a slice to itself:
    its limits and `files` are those of that one. `project` is whose quota is for all that the job
    has on disk, and its device.
    """

    job: str
    unit: str
    unit_type: UnitType
    cgroup: str
    manager: str
    command: tuple[str, ...]
    box: Mapping[str, Any]
    enforcement: Mapping[str, Enforcement]
    properties: tuple[UnitProperty, ...]
    files: tuple[CgroupFile, ...]
    needs: Mapping[str, int]
    watched: Mapping[str, int]
    memory_limit_bytes: int | None
    cpu_limit: float | None
    runtime_max_seconds: float | None
    stop_seconds: float
    oom_policy: str | None
    spec: Mapping[str, Any]
    cpus: tuple[int, ...] | None = None
    programs: tuple[str, ...] = ()
    own_slice: OwnSlice | None = None
    project: tuple[int, int] | None = None

    @property
    def whole(self) -> str:
        """The unit that has all of the job in it: what is frozen, killed and measured."""
        return self.own_slice.name if self.own_slice else self.unit

    @property
    def only(self) -> str | None:
        """The one unit that its supervisor has to do with, where that is the only one."""
        return None if self.own_slice else self.unit

    @property
    def tree(self) -> str:
        """The cgroup of `whole`."""
        return os.path.dirname(self.cgroup) if self.own_slice else self.cgroup

    @property
    def ends_when_out_of_memory(self) -> bool:
        """Whether a job is over when the kernel killed one of its processes for memory."""
        return self.oom_policy != "continue"

    def to_plain(self) -> dict[str, Any]:
        """Return the plan, but for `spec`, as marshal can carry it."""
        return values_of(self) | {
            "properties": _plain(self.properties),
            "own_slice": self.own_slice
            and (self.own_slice.name, _plain(self.own_slice.properties)),
            "files": [tuple(values_of(entry).values()) for entry in self.files],
            "spec": {},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_plain` described."""
        own_slice = plain["own_slice"] and OwnSlice(
            name=plain["own_slice"][0], properties=_from_plain(plain["own_slice"][1])
        )
        files = tuple(CgroupFile(name=name, contents=text) for name, text in plain["files"])
        properties = _from_plain(plain["properties"])
        given = {"properties": properties, "files": files, "own_slice": own_slice}
        return cls(**{**plain, **given})


def _plain(properties: Sequence[UnitProperty]) -> list[tuple[Any, ...]]:
    return [tuple(values_of(entry).values()) for entry in properties]


def _from_plain(plain: Sequence[tuple[Any, ...]]) -> tuple[UnitProperty, ...]:
    return tuple(
        UnitProperty(name=name, signature=signature, value=value, since=since)
        for name, signature, value, since in plain
    )


def properties_for(plan: Plan, systemd_version: int) -> tuple[UnitProperty, ...]:
    """Return the unit's properties, with what this systemd needs to be told for the same meaning.

    A job that is out of memory ends. systemd 252 sees to that itself; since 253 the default is a
    friendly stop, in which what is left of the job may go on for a while with a process missing.
    """
    known = tuple(one for one in plan.properties if one.since <= systemd_version)
    if plan.oom_policy is not None or systemd_version < _OOM_POLICY_SINCE[plan.unit_type]:
        return known
    if plan.enforcement.get("MemoryMax") != "kernel":
        return known
    return (*known, UnitProperty(name="OOMPolicy", signature="s", value="kill"))


def check_version(plan: Plan, systemd_version: int) -> None:
    """Refuse what this systemd is too old for. Raises Unenforceable."""
    for name, needed in plan.needs.items():
        if needed > systemd_version:
            raise Unenforceable(
                f"{name}: systemd {systemd_version} can't set it on a {plan.unit_type}",
                hint=f"It needs systemd {needed}",
            )
