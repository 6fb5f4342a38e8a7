"""What init is told: a box's part that a scope can't take, in plain data. Pure.

A spec is a dict that marshal can carry: numbers, strings, bytes, lists, tuples and dicts.

    job                  str
    argv, environment    list of bytes; list of (name, value) in bytes
    ignored_signals      numbers
    spare_init           bool: the kernel kills init last when memory runs out
    private_pids         bool
    family               bool: no cgroup; the box is init's descendants
    user_namespace       (uid, gid) to be in one for the other namespaces, or None
    terminal             bool: stdin is a terminal that is to be the session's own
    enter                CLONE_NEW… flags: the caller's namespaces, where init was born in others
    nestable             bool: there is a way to the supervisor in it, for boxes inside
    namespaces           CLONE_NEW… flags of those to be made
    root_directory       path or None
    secure_root          bool: only if nobody but root can have put that path there
    ephemeral            bool: what is written there is not kept
    private_directories  list of (destination, where to make it)
    counted              bool: who watches it counts what it has on disk
    project              (number, device, bytes) of all that it has on disk, or None: see
                         sdbox.init.quota
    mounts               list of (kind, destination, arguments), see sdbox.init.mounts
    protections          list of (mode, path, may be missing), see sdbox.init.protect
    process              list of (operation, arguments), see sdbox.init.payload
"""

from __future__ import annotations

import os
import resource

from sdbox.directives import DIRECTIVES
from sdbox.init import syscalls
from sdbox.plan import privileges, protection
from sdbox.plan.scratch import depth, directories, hides, image
from sdbox.plan.scratch import mounts as own_places
from sdbox.values import INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from sdbox.host.users import Credentials
    from sdbox.plan.planner import Caller
    from sdbox.properties import UnitType
    from sdbox.values import Bind, ResourceLimit, WorkingDirectory

    Mount = tuple[str, str, dict[str, Any]]
    Operation = tuple[str, dict[str, Any]]


_RUN = {"mode": "0755", "size": "20%", "nr_inodes": "800k"}


def make_spec(
    *,
    job: str,
    command: Sequence[str],
    directives: Mapping[str, Any],
    credentials: Credentials | None,
    caller: Caller,
    own_proc: bool,
    spare_init: bool,
    unit_type: UnitType = "scope",
    secure_root: bool = False,
    call_filters: Sequence[bytes] = (),
    managers: Sequence[str] = (),
    nodes: Sequence[str] = (),
    family: bool = False,
    project: tuple[int, int, int] | None = None,
) -> dict[str, Any]:
    """Return the spec. What systemd does to a unit of its type is left out.

    An ordinary user's manager does no more to a service than to a scope. `own_proc` says that the
    job's PIDs are not those of the caller's /proc, and `spare_init` that the kernel may come to
    kill the job for memory: it shall leave somebody to tell. `managers` are the places of
    sdbox.plan.protection's MANAGERS and ENGINES that the host has, and `nodes` the devices that a
    private /dev has besides those of any.
    """
    ordinary = caller.user is not None
    kept_as: UnitType = "scope" if ordinary else unit_type
    became = None if ordinary else credentials
    private_pids = bool(directives.get("PrivatePIDs"))
    # Which only who has some may do.
    drops = "CapabilityBoundingSet" in directives
    host_proc = ordinary and not private_pids
    own = _own(directives, became)
    mounts = [
        *_mounts(directives, own_proc=own_proc, host_proc=host_proc),
        *_covers(directives, managers, nodes, ordinary=ordinary),
        *own,
    ]
    places = [destination for _, destination, _ in own]
    protections = protection.entries(directives, managers, places, _writable(mounts))
    namespaces = _namespaces(directives, [*mounts, *protections], kept_as)
    return {
        "job": job,
        "argv": [os.fsencode(word) for word in command],
        "environment": _environment(directives, credentials, caller),
        "ignored_signals": list(caller.ignored_signals),
        "spare_init": spare_init,
        "private_pids": private_pids,
        "family": family,
        "user_namespace": caller.user if namespaces or private_pids or drops else None,
        "terminal": False,
        "enter": _entered(directives) if unit_type == "service" else 0,
        "nestable": bool(directives.get("Nestable")),
        "namespaces": namespaces,
        "root_directory": directives.get("RootDirectory"),
        "secure_root": secure_root,
        "ephemeral": directives.get("RootEphemeral", "no") != "no",
        "private_directories": list(_private_directories(directives)),
        "counted": "DiskMax" in directives,
        "project": project,
        "mounts": mounts,
        "protections": protections,
        "process": list(_process(directives, became, caller, kept_as, call_filters)),
    }


def _private_directories(directives: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for place in directories(directives):
        yield place, place
    layer: str = directives.get("RootEphemeral", "no")
    if layer.startswith("/"):
        yield "/", layer


def _environment(
    directives: Mapping[str, Any], credentials: Credentials | None, caller: Caller
) -> list[tuple[bytes, bytes]]:
    variables = dict(caller.environment)
    of_user = credentials.environment.items() if credentials else ()
    for name, value in (*of_user, *directives.get("Environment", ())):
        variables[os.fsencode(name)] = os.fsencode(value)
    return list(variables.items())


_NAMESPACES = {"PrivateNetwork": syscalls.CLONE_NEWNET, "PrivateIPC": syscalls.CLONE_NEWIPC}


def _namespaces(
    directives: Mapping[str, Any], mounts: Sequence[object], unit_type: UnitType
) -> int:
    own_mounts = mounts or "RootDirectory" in directives or directives.get("Nestable")
    flags = syscalls.CLONE_NEWNS if own_mounts else 0
    made = (f for name, f in _NAMESPACES.items() if _is_inits(name, directives, unit_type))
    return sum(made, flags)


def _entered(directives: Mapping[str, Any]) -> int:
    """The namespaces that a child of the caller would be in, but for those of the box's own."""
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
    return flags | sum(flag for name, flag in _NAMESPACES.items() if not directives.get(name))


# These are not there for the box to write to.
_NOT_BY_REQUEST = ("Cover", "PrivateNetwork")


def _writable(mounts: Iterable[Mount]) -> Iterator[str]:
    """Where the box's own mounts are that it may write to."""
    for kind, destination, arguments in mounts:
        if kind not in _NOT_BY_REQUEST and not arguments.get("read_only"):
            yield destination


def _mounts(directives: Mapping[str, Any], *, own_proc: bool, host_proc: bool) -> Iterator[Mount]:
    """The kernel's own file systems."""
    visible = directives.get("ProtectProc", "default")
    if "RootDirectory" in directives:
        # Only who has a PID namespace may mount its /proc.
        yield _tree("/proc") if host_proc and visible == "default" else _proc(visible)
        yield from _api_file_systems(private_network=bool(directives.get("PrivateNetwork")))
        return
    if directives.get("PrivateNetwork"):
        yield "PrivateNetwork", "/sys", {}
    if own_proc or directives.get("PrivatePIDs") or visible != "default":
        yield _proc(visible)


def _own(directives: Mapping[str, Any], credentials: Credentials | None) -> list[Mount]:
    """What the box says itself of what is where."""
    own = [
        *own_places(directives, credentials),
        *map(image, directives.get("MountImages", ())),
        *(_bind(bind, read_only=False) for bind in directives.get("BindPaths", ())),
        *(_bind(bind, read_only=True) for bind in directives.get("BindReadOnlyPaths", ())),
    ]
    # What is above comes first, or it would cover what is below; in one place the last one wins.
    return sorted(own, key=lambda mount: depth(mount[1]))


def _proc(visible: str) -> Mount:
    options = {} if visible == "default" else {"hidepid": visible}
    return "MountAPIVFS", "/proc", {"kind": "proc", "options": options}


def _covers(
    directives: Mapping[str, Any], managers: Sequence[str], nodes: Sequence[str], *, ordinary: bool
) -> Iterator[Mount]:
    for path in dict.fromkeys(protection.covers(directives, managers)):
        devices = protection.devices(ordinary=ordinary) if path == "/dev" else {}
        yield "Cover", path, {"mode": "0700" if path == "/root" else "0755", **devices}
        for name in protection.kept(directives, path, ordinary=ordinary):
            yield _tree(f"{path}/{name}", ignore_missing=True)
        if path == "/dev":
            yield from map(_tree, nodes)
            if protection.own_terminals(directives, ordinary=ordinary):
                options = {"ptmxmode": "0666", "mode": "0620"}
                yield "MountAPIVFS", "/dev/pts", {"kind": "devpts", "options": options}


def _api_file_systems(*, private_network: bool) -> Iterator[Mount]:
    """What a root directory gets beside /proc: systemd.exec(5), MountAPIVFS=."""
    if private_network:
        # The machine's own sysfs would show the machine's network devices.
        yield "MountAPIVFS", "/sys", {"kind": "sysfs", "options": {}}
    else:
        yield _tree("/sys")
    yield _tree("/dev")
    yield "MountAPIVFS", "/run", {"kind": "tmpfs", "options": _RUN}


def _tree(path: str, *, ignore_missing: bool = False) -> Mount:
    arguments = {
        "source": path,
        "read_only": False,
        "recursive": True,
        "ignore_missing": ignore_missing,
    }
    return "BindPaths", path, arguments


def _bind(bind: Bind, *, read_only: bool) -> Mount:
    arguments = {
        "source": bind.source,
        "read_only": read_only,
        "recursive": bind.recursive,
        "ignore_missing": bind.ignore_missing,
    }
    return "BindPaths", bind.destination, arguments


def _process(
    directives: Mapping[str, Any],
    credentials: Credentials | None,
    caller: Caller,
    unit_type: UnitType,
    call_filters: Sequence[bytes],
) -> Iterator[Operation]:
    yield "OOMScoreAdjust", {"value": caller.oom_score_adjust}
    if caller.inherited is not None:
        # CPUs that were asked for, init has from systemd already.
        cpus = () if "CPUAffinity" in directives else caller.inherited["cpus"]
        groups = None if caller.user else caller.inherited["groups"]
        yield "Inherit", {**caller.inherited, "cpus": cpus, "groups": groups}
    if _is_inits("CPUAffinity", directives, unit_type):
        yield "CPUAffinity", {"cpus": list(directives["CPUAffinity"])}
    asked = directives.get("WorkingDirectory")
    if asked is None:
        # Inherited, so that it needs no right of the box's user to get there; and not asked for,
        # so that a box without it is no error.
        inherited = "/" if _is_elsewhere(directives, caller) else caller.working_directory
        yield _chdir(inherited, ignore_missing=True)
    for name, value in directives.items():
        if name.startswith("Limit"):
            yield _limit(name, value)
    yield from privileges.as_root(directives, credentials)
    if credentials is not None:
        yield (
            "User",
            {
                "uid": credentials.uid,
                "gid": credentials.gid,
                "groups": list(credentials.groups),
            },
        )
    if asked is not None:
        yield _working_directory(asked, credentials, caller)
    yield from privileges.as_user(directives, unit_type, call_filters)


def _is_elsewhere(directives: Mapping[str, Any], caller: Caller) -> bool:
    """Whether the caller's directory is none of the box, whatever has its path there."""
    hidden = protection.hides_home(directives, caller.working_directory)
    return "RootDirectory" in directives or (hidden and hides(directives, caller.working_directory))


def _is_inits(name: str, directives: Mapping[str, Any], unit_type: UnitType) -> bool:
    """Whether a directive says something that systemd does not see to."""
    return bool(directives.get(name)) and not DIRECTIVES[name].properties(unit_type)


def _working_directory(
    asked: WorkingDirectory, credentials: Credentials | None, caller: Caller
) -> Operation:
    path = asked.path
    if path == "~":
        path = credentials.home if credentials else caller.home
    return _chdir(path, ignore_missing=asked.missing_ok)


def _chdir(path: str, *, ignore_missing: bool) -> Operation:
    return "WorkingDirectory", {"path": path, "ignore_missing": ignore_missing}


def _limit(name: str, limit: ResourceLimit) -> Operation:
    number = getattr(resource, f"RLIMIT_{name.removeprefix('Limit')}", _OTHER_LIMITS.get(name))
    soft, hard = (resource.RLIM_INFINITY if n == INFINITY else n for n in (limit.soft, limit.hard))
    return "Limit", {"resource_number": number, "soft": soft, "hard": hard}


# Not in Python's resource module: from the kernel's asm-generic/resource.h.
_OTHER_LIMITS = {"LimitLOCKS": 10}
