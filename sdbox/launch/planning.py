"""What a plan needs of this process and this host: the caller's state, the users' database."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.host.users import look_up
from sdbox.plan import scratch
from sdbox.plan.planner import Caller, make_plan
from sdbox.plan.privileges import CALL_FILTERS
from sdbox.plan.slices import slice_path
from sdbox.values import INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sdbox.box import Box
    from sdbox.cpus.assignment import Claim
    from sdbox.host import projects
    from sdbox.host.facts import Host
    from sdbox.plan import Plan
    from sdbox.properties import UnitType
    from sdbox.systemd.endpoint import Endpoint
    from sdbox.values.devices import Rule

Command = Sequence[str | bytes | os.PathLike[str]]


def caller(
    environment: Mapping[bytes, bytes] = os.environb,
    ignored_signals: Sequence[int] = (),
    *,
    unit_type: UnitType = "scope",
) -> Caller:
    """Return what a job takes over from this process, or is to take for that."""
    try:
        directory = os.getcwd()
    except FileNotFoundError:
        # It has been removed. chdir(2) takes an empty path for one that is not there.
        directory = ""
    return Caller(
        environment=dict(environment),
        working_directory=directory,
        home=_home(environment),
        oom_score_adjust=_oom_score_adjust(),
        ignored_signals=tuple(ignored_signals),
        user=(os.geteuid(), os.getegid()) if os.geteuid() else None,
        inherited=_inherited() if unit_type == "service" else None,
    )


def _inherited() -> dict[str, Any]:
    """Return what a child would have of this process, and a service is to have as well."""
    import resource

    limits = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
        umask = next(line.split()[1] for line in lines if line.startswith("Umask:"))
    return {
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "groups": os.getgroups(),
        "umask": int(umask, 8),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "limits": {number: resource.getrlimit(number) for number in sorted(limits)},
        "cpus": tuple(sorted(os.sched_getaffinity(0))),
    }


def _home(environment: Mapping[bytes, bytes]) -> str:
    if b"HOME" in environment:
        return os.fsdecode(environment[b"HOME"])
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def _oom_score_adjust() -> int:
    with open("/proc/self/oom_score_adj", encoding="utf-8") as file:
        return int(file.read())


def plan_for(
    host: Host,
    command: Command,
    box: Box,
    *,
    job: str,
    caller: Caller,
    unit_type: UnitType = "scope",
    cpus: tuple[int, ...] | None = None,
    project: tuple[int, int] | None = None,
    configuration: str | None = None,
) -> Plan:
    """Return what launching a command in a box will take. Starts nothing.

    `cpus` are those that the job was assigned, and `project` is that of all it has on disk. A
    root's name is looked up in the configuration, the administrator's or that of the file given.
    Raises Unenforceable, InvalidDirective and InvalidConfiguration.
    """
    words = [os.fsdecode(word) for word in command]
    if not words or not words[0]:
        raise InvalidDirective("There is no command to run", hint="Give one, after --")
    if any("\0" in word for word in words):
        raise InvalidDirective("The command has a NUL byte in it", hint="No program can take it")
    credentials = look_up(box.directives.get("User"), box.directives.get("Group"))
    return make_plan(
        job=job,
        command=words,
        box=box,
        host=host,
        credentials=credentials,
        caller=caller,
        unit_type=unit_type,
        cpus=cpus,
        named_root=_named_root(box, configuration),
        devices=_devices(box),
        nodes=_nodes(box),
        call_filters=_call_filters(box),
        managers=_managers(box),
        project=project,
    )


def _devices(box: Box) -> tuple[Rule, ...] | None:
    rules, gpus = box.directives.get("DeviceAllow"), box.directives.get("GPUs")
    if rules is None and gpus is None:
        return None
    from sdbox.host import nodes

    return nodes.resolve(rules or (), gpus)


def _nodes(box: Box) -> tuple[str, ...]:
    """Return the nodes that a private /dev of the box is to have as well."""
    request = box.directives.get("GPUs")
    if request is None or not box.directives.get("PrivateDevices"):
        return ()
    from sdbox.host import nodes

    return nodes.of_gpus(request)


def _managers(box: Box) -> Sequence[str]:
    """Return what leads to managers here, where the box is not to get there."""
    given = box.directives.get("ManagerAccess")
    # Who isn't root needs a user namespace to hide anything: it is not made for this alone.
    if given or (given is None and os.geteuid() != 0):
        return ()
    from sdbox.host import sockets

    return sockets.managers(all_of_them=given is not None)


def _call_filters(box: Box) -> Sequence[bytes]:
    if not any(box.directives.get(name) for name in CALL_FILTERS):
        return ()
    from sdbox.kernel import seccomp

    return seccomp.programs(box.directives)


def _named_root(box: Box, configuration: str | None) -> str | None:
    """Return where the root is that the box names, if it names one."""
    root: str = box.directives.get("RootDirectory", "/")
    if root.startswith("/"):
        return None
    from sdbox import config, roots

    known = config.load(configuration)
    return roots.find(known.roots, root, known.path)


async def assigned(endpoint: Endpoint, box: Box, *, seconds: float = 0.0) -> Claim | None:
    """Return the CPUs for a job, if its box has it assigned any, as soon as there are enough.

    Raises Unenforceable and, after so many seconds, CPUsTaken.
    """
    request = box.directives.get("AssignedCPUs")
    if request is None:
        return None
    if endpoint.kind == "nested":
        raise Unenforceable(
            "AssignedCPUs: inside of a box there are no others to have than the box's own",
            hint="Assign them to the box, and give --cpu-affinity in it",
        )
    from sdbox.cpus import assignment

    return await assignment.claim(request, _usable(endpoint, box), seconds=seconds)


def _usable(endpoint: Endpoint, box: Box) -> frozenset[int]:
    from sdbox.cpus.assignment import usable

    given = box.directives
    place = endpoint.cgroup_root + slice_path(given.get("Slice", endpoint.slice))
    return usable(place, given.get("AllowedCPUs"), given.get("CPUAffinity"))


def project_for(endpoint: Endpoint, box: Box) -> projects.Claim | None:
    """Return a project for what a job has on disk, if there is a limit that its quota can keep.

    Where that can't be had, DiskMax= is kept all the same: by watching.
    """
    unlimited = box.directives.get("DiskMax", INFINITY) == INFINITY
    # Inside of a box it would take the files from the project of that box.
    if unlimited or os.geteuid() != 0 or endpoint.kind == "nested":
        return None
    places = scratch.on_disk(box.directives)
    if not places:
        return None
    from sdbox.host import projects

    return projects.claim(places)


def held(claim: Claim | None, project: projects.Claim | None) -> tuple[int, ...]:
    """Return the descriptors that a box's end is to let go of."""
    return (*((claim.fd,) if claim else ()), *(project.held if project else ()))


def encoded(environment: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return an environment in the bytes that execve(2) takes."""
    return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
