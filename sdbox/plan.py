"""From a box to what will be done: the unit's properties, init's work, the watches. Pure.

What the host can't keep is refused here, before anything is started.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sdbox.directives import DIRECTIVES, CgroupFile, UnitProperty
from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.messages import one_line
from sdbox.record import record
from sdbox.spec import make_spec
from sdbox.values import INFINITY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdbox.box import Box
    from sdbox.directives import Directive
    from sdbox.host import Host
    from sdbox.result import Enforcement
    from sdbox.users import Credentials

SLICE = "sdbox.slice"
# systemd.unit(5), without what the shell or a path would trip over.
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")
_ID_LONGEST = 200
# DefaultTimeoutStopSec= of systemd-system.conf(5).
_STOP_USEC = 90_000_000
_DESCRIPTION_LONGEST = 120


@record
class Caller:
    """What a job takes over from whoever starts it. `home` is what `~` stands for."""

    environment: Mapping[bytes, bytes]
    working_directory: str
    home: str
    oom_score_adjust: int = 0
    ignored_signals: tuple[int, ...] = ()


@record
class Plan:
    """One launch, worked out.

    `box` is what was asked for, and `directives` what it comes down to on this host: percentages
    made numbers, defaults added. `spec` is init's part (see sdbox.spec), `files` is read back.
    """

    job: str
    manager: str
    command: tuple[str, ...]
    box: Box
    directives: Mapping[str, Any]
    properties: tuple[UnitProperty, ...]
    files: tuple[CgroupFile, ...]
    spec: Mapping[str, Any]
    enforcement: Mapping[str, Enforcement]
    watched: Mapping[str, Any]

    @property
    def unit(self) -> str:
        """The unit's name."""
        return f"sdbox-{self.job}.scope"

    @property
    def slice(self) -> str:
        """The slice that the unit is in."""
        return str(self.directives.get("Slice", SLICE))

    @property
    def cgroup(self) -> str:
        """The unit's cgroup, below the manager's root cgroup."""
        return f"{slice_path(self.slice)}/{self.unit}"

    @property
    def memory_limit_bytes(self) -> int | None:
        """MemoryMax=, or None where there is no limit."""
        limit = self.directives.get("MemoryMax", INFINITY)
        return None if limit == INFINITY else int(limit)

    @property
    def cpu_limit(self) -> float | None:
        """CPUQuota= in CPUs, or None where there is no limit."""
        quota = self.directives.get("CPUQuota")
        return None if quota is None else quota.permyriad / 10_000

    @property
    def ends_when_out_of_memory(self) -> bool:
        """Whether a job is over when the kernel killed one of its processes for memory."""
        return self.directives.get("OOMPolicy") != "continue"

    @property
    def stop_seconds(self) -> float:
        """TimeoutStopSec=: how long the job may take to end when it is asked to."""
        limit = self.directives.get("TimeoutStopSec", _STOP_USEC)
        return float("inf") if limit == INFINITY else limit / 1_000_000

    @property
    def runtime_max_seconds(self) -> float | None:
        """RuntimeMaxSec=, or None where there is no limit."""
        limit = self.directives.get("RuntimeMaxSec", INFINITY)
        return None if limit == INFINITY else limit / 1_000_000


def make_plan(
    *,
    job: str,
    command: Sequence[str],
    box: Box,
    host: Host,
    credentials: Credentials | None,
    caller: Caller,
) -> Plan:
    """Return the plan for a command in a box. Raises Unenforceable, InvalidDirective."""
    check_id(job)
    # What is asked for must be kept; what only follows from it is kept where it can be.
    asked = box.resolve({"memory": host.memory_total_bytes, "tasks": host.tasks_total})
    enforcement = {name: _kept(name, value, host) for name, value in _items(asked)}
    full = asked.with_defaults()
    for name in full.directives:
        if name not in enforcement and DIRECTIVES[name].controller in host.controllers:
            enforcement[name] = "kernel"
    kept = {name: value for name, value in _items(full) if name in enforcement}
    controlled = {n: v for n, v in kept.items() if DIRECTIVES[n].controller in host.controllers}
    return Plan(
        job=job,
        manager=host.manager,
        command=tuple(command),
        box=box,
        directives=kept,
        properties=_properties(job, command, kept),
        files=tuple(file for name, value in controlled.items() for file in _files(name, value)),
        spec=make_spec(
            job=job,
            command=command,
            directives=kept,
            credentials=credentials,
            caller=caller,
            own_proc=host.manager == "embedded",
            spare_init="memory" in host.controllers,
        ),
        enforcement=enforcement,
        watched={name: value for name, value in kept.items() if enforcement[name] == "watch"},
    )


def properties_for(plan: Plan, systemd_version: int) -> tuple[UnitProperty, ...]:
    """Return the unit's properties, with what this systemd needs to be told for the same meaning.

    A job that is out of memory ends. systemd 252 sees to that itself; since 253 the default is a
    friendly stop, in which what is left of the job may go on for a while with a process missing.
    """
    directive = DIRECTIVES["OOMPolicy"]
    if "OOMPolicy" in plan.directives or directive.since > systemd_version:
        return plan.properties
    if plan.enforcement.get("MemoryMax") != "kernel" or directive.unit is None:
        return plan.properties
    return (*plan.properties, *directive.unit("kill"))


def check_version(plan: Plan, systemd_version: int) -> None:
    """Refuse what this systemd is too old for. Raises Unenforceable."""
    for name, value in _items(plan.box):
        needed = DIRECTIVES[name].needs_version(value)
        if needed > systemd_version:
            raise Unenforceable(
                f"{name}: systemd {systemd_version} can't set it on a scope",
                hint=f"It needs systemd {needed}",
            )


def slice_path(name: str) -> str:
    """Return the cgroup of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5))."""
    if name == "-.slice":
        return ""
    levels = name.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(levels[:n])}.slice" for n in range(1, len(levels) + 1))


def new_id() -> str:
    """Return an id for a job, unique on any machine."""
    return os.urandom(6).hex()


def check_id(job: str) -> None:
    """Refuse an id that can't be part of a unit's name. Raises InvalidDirective."""
    if not job or len(job) > _ID_LONGEST or not _ID_CHARACTERS.issuperset(job):
        raise InvalidDirective(
            f"{job!r} is not a job's id",
            hint=f"Give up to {_ID_LONGEST} letters, digits and any of : _ . -",
        )


def _items(box: Box) -> list[tuple[str, Any]]:
    return list(box.directives.items())


def keeper(directive: Directive, host: Host) -> Enforcement | None:
    """Return who keeps a directive on this host, or None where nobody can."""
    if directive.controller is None:
        return "watch" if directive.watch else "manager" if directive.unit else "kernel"
    if directive.controller in host.controllers:
        return "kernel"
    return "watch" if directive.watch else None


def _kept(name: str, value: Any, host: Host) -> Enforcement:
    directive = DIRECTIVES[name]
    kept_by = keeper(directive, host)
    if directive.controller is not None and value == INFINITY:
        # No limit is kept everywhere.
        return "kernel"
    if kept_by is None:
        raise Unenforceable(
            f"{name}: this host has no {directive.controller} controller for its units",
            hint=f"Leave it out; `sdbox doctor` tells what keeps {directive.controller} away",
        )
    return kept_by


def _properties(
    job: str, command: Sequence[str], directives: Mapping[str, Any]
) -> tuple[UnitProperty, ...]:
    values = {"Slice": SLICE, "Description": _description(job, command), **directives}
    return tuple(
        unit_property
        for name, value in values.items()
        if (to_properties := DIRECTIVES[name].unit) is not None
        for unit_property in to_properties(value)
    )


def _files(name: str, value: Any) -> tuple[CgroupFile, ...]:
    to_files = DIRECTIVES[name].files
    return to_files(value) if to_files is not None else ()


def _description(job: str, command: Sequence[str]) -> str:
    text = f"sdbox job {job}: {' '.join(command)}"
    printable = one_line(text)
    if len(printable) > _DESCRIPTION_LONGEST:
        return printable[: _DESCRIPTION_LONGEST - 1] + "…"
    return printable
