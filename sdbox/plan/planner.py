"""From a box to what will be done: the unit's properties, init's work, the watches. Pure.

What the host can't keep is refused here, before anything is started.
"""

from __future__ import annotations

import os

from sdbox.directives import DIRECTIVES
from sdbox.errors import InvalidDirective
from sdbox.messages import one_line
from sdbox.plan import Plan, keeping, privileges, scratch, slices
from sdbox.plan.spec import make_spec
from sdbox.properties import UnitProperty
from sdbox.record import record
from sdbox.values import INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sdbox.box import Box
    from sdbox.host.facts import Host
    from sdbox.host.users import Credentials
    from sdbox.properties import UnitType
    from sdbox.result import Enforcement
    from sdbox.values import Percent
    from sdbox.values.devices import Rule

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
    user: tuple[int, int] | None = None
    """An ordinary user's and his group's numbers; None for root, who needs no user namespace."""
    inherited: Mapping[str, Any] | None = None
    """What else a child gets: see sdbox.init.payload, Inherit. Not needed for a scope's job."""


def make_plan(
    *,
    job: str,
    command: Sequence[str],
    box: Box,
    host: Host,
    credentials: Credentials | None,
    caller: Caller,
    unit_type: UnitType = "scope",
    cpus: tuple[int, ...] | None = None,
    named_root: str | None = None,
    devices: tuple[Rule, ...] | None = None,
    nodes: Sequence[str] = (),
    call_filters: Sequence[bytes] = (),
    managers: Sequence[str] = (),
    project: tuple[int, int] | None = None,
) -> Plan:
    """Return the plan for a command in a box. Raises Unenforceable, InvalidDirective.

    `cpus` are those that were assigned, `named_root` is where the root is that the box names,
    `devices` are the rules that its DeviceAllow and GPUs come down to, `nodes` the paths of what a
    private /dev is to have of these, and `call_filters` the programs that its system calls are to
    pass. `managers` are the places that lead to some on this host, see sdbox.plan.protection;
    `project` is that of all it has on disk, see sdbox.host.projects.
    """
    check_id(job)
    own_name, job = job, host.prefix + job
    check_id(job)
    keeping.check_unit(host, unit_type, box.directives)
    keeping.check_caller(caller, credentials, box.directives)
    # What is asked for must be kept; what only follows from it is kept where it can be.
    asked = box.resolve({"memory": host.memory_total_bytes, "tasks": host.tasks_total})
    enforcement = {name: keeping.kept(name, value, host) for name, value in _items(asked)}
    bound = project is not None and not privileges.passes_quotas(asked.directives, credentials)
    enforcement |= scratch.keeper(asked.directives, quota=bound)
    full = asked.with_defaults()
    for name in full.directives:
        if name not in enforcement and DIRECTIVES[name].controller in host.controllers:
            enforcement[name] = "kernel"
    kept = {name: value for name, value in _items(full) if name in enforcement}
    _check_root(kept)
    privileges.check(kept, credentials)
    scratch.check(kept)
    kept |= _assigned(cpus, host) | ({"RootDirectory": named_root} if named_root else {})
    kept |= _opened(devices, kept)
    _check_images(kept)
    controlled = {n: v for n, v in kept.items() if DIRECTIVES[n].controller in host.controllers}
    unit = f"sdbox-{job}.{unit_type}"
    above = slices.slice_for(kept.get("Slice"), job, unit_type, host)
    described = {"Description": _description(job, command), **kept}
    properties = _properties(described, keeping.kept_as(unit_type, caller))
    own = None
    if kept.get("Nestable"):
        own, properties = slices.divided(
            slices.own_slice(above, own_name), job, _properties(kept, "scope"), properties
        )
    within = own.name if own else above
    return Plan(
        job=job,
        unit=unit,
        unit_type=unit_type,
        cgroup="" if host.manager == "none" else f"{slices.slice_path(within)}/{unit}",
        manager=host.manager,
        command=tuple(command),
        box=box.to_json(),
        enforcement=enforcement,
        properties=(UnitProperty(name="Slice", signature="s", value=within), *properties),
        files=tuple(
            file for name, value in controlled.items() for file in DIRECTIVES[name].read_back(value)
        ),
        needs={n: DIRECTIVES[n].needs_version(value, unit_type) for n, value in _items(box)},
        watched={name: int(v) for name, v in kept.items() if _is_watched(name, enforcement)},
        memory_limit_bytes=_limit(kept.get("MemoryMax", INFINITY)),
        cpu_limit=_least(_cpus(kept.get("CPUQuota")), len(cpus) if cpus else None),
        runtime_max_seconds=_seconds(kept.get("RuntimeMaxSec", INFINITY)),
        stop_seconds=_seconds(kept.get("TimeoutStopSec", _STOP_USEC)) or float("inf"),
        oom_policy=kept.get("OOMPolicy"),
        spec=make_spec(
            job=job,
            command=command,
            directives=kept,
            credentials=credentials,
            caller=caller,
            own_proc=host.manager == "embedded",
            spare_init="memory" in host.controllers and caller.user is None,
            unit_type=unit_type,
            secure_root=named_root is not None,
            call_filters=call_filters,
            managers=managers,
            nodes=nodes,
            family=host.manager == "none",
            project=project and (*project, int(kept["DiskMax"])),
        ),
        cpus=cpus,
        programs=_programs(kept),
        own_slice=own,
        project=project,
    )


def _is_watched(name: str, enforcement: Mapping[str, Enforcement]) -> bool:
    # How a job is stopped is no limit that could be passed.
    watched = enforcement.get(name) in ("watch", "quota")
    return watched and name not in ("KillSignal", "TimeoutStopSec")


def _check_root(kept: Mapping[str, Any]) -> None:
    if kept.get("RootEphemeral", "no") != "no" and "RootDirectory" not in kept:
        raise InvalidDirective(
            "RootEphemeral: there is no RootDirectory for it", hint="Add --root, or leave it out"
        )


def _assigned(cpus: tuple[int, ...] | None, host: Host) -> dict[str, tuple[int, ...]]:
    """Return what keeps a job to the CPUs that it was assigned, as a directive."""
    if cpus is None:
        return {}
    return {"AllowedCPUs" if "cpuset" in host.controllers else "CPUAffinity": cpus}


def _opened(devices: tuple[Rule, ...] | None, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return what keeps a job to its devices, as directives."""
    if devices is None:
        return {}
    closed = "GPUs" in kept and kept.get("DevicePolicy", "auto") == "auto"
    return {"DeviceAllow": devices} | ({"DevicePolicy": "closed"} if closed else {})


def _check_images(kept: Mapping[str, Any]) -> None:
    if kept.get("MountImages") and "device" in _programs(kept):
        from sdbox.values.devices import check_loops

        check_loops(kept.get("DeviceAllow", ()))


def _programs(kept: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = (make(value) for name, value in kept.items() if (make := DIRECTIVES[name].programs))
    return tuple(dict.fromkeys(program for some in wanted for program in some))


def _least(*numbers: float | None) -> float | None:
    return min((number for number in numbers if number is not None), default=None)


def _limit(value: int) -> int | None:
    return None if value == INFINITY else int(value)


def _seconds(usec: int) -> float | None:
    return None if usec == INFINITY else usec / 1_000_000


def _cpus(quota: Percent | None) -> float | None:
    return None if quota is None else quota.permyriad / 10_000


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


def _properties(directives: Mapping[str, Any], unit_type: UnitType) -> list[UnitProperty]:
    """Return what the unit is told of the directives, but for its slice."""
    return [
        unit_property
        for name, value in directives.items()
        if name != "Slice" and (to_properties := DIRECTIVES[name].properties(unit_type)) is not None
        for unit_property in to_properties(value)
    ]


def _description(job: str, command: Sequence[str]) -> str:
    text = f"sdbox job {job}: {' '.join(command)}"
    printable = one_line(text)
    if len(printable) > _DESCRIPTION_LONGEST:
        return printable[: _DESCRIPTION_LONGEST - 1] + "…"
    return printable
