"""What this host can enforce, by whom, and the remedy for what it can't."""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sdbox.directives import DIRECTIVES
from sdbox.errors import SdboxError
from sdbox.host import gpus, projects, userns
from sdbox.kernel import bpf, seccomp
from sdbox.launcher import Launcher
from sdbox.plan.keeping import IN_USER_NAMESPACE, OF_ROOT, delegation, keeper
from sdbox.plan.privileges import CALL_FILTERS
from sdbox.record import record
from sdbox.systemd import usermanager

if TYPE_CHECKING:
    from sdbox.directives import Directive
    from sdbox.host.facts import Host
    from sdbox.result import Enforcement
    from sdbox.systemd.endpoint import Choice

# The last of what is used came with 5.14, cgroup.kill; process descriptors and mount_setattr
# were there before.
_OLDEST_LINUX = (5, 14)

# The namespaces that init makes, by their file in /proc/self/ns.
_NAMESPACES = {
    "mnt": "RootDirectory, BindPaths, PrivateTmp",
    "pid": "PrivatePIDs",
    "ipc": "PrivateIPC",
    "net": "PrivateNetwork",
}

_V1 = "/sys/fs/cgroup"


@record
class Finding:
    """One thing looked at: is it as it should be, what was seen, and the remedy if not.

    `needed`: without it no job can be started.
    """

    name: str
    good: bool
    seen: str
    remedy: str = ""
    needed: bool = True


@record
class Keeping:
    """One directive: who keeps it on this host, and the remedy where that is not the best."""

    directive: str
    kept_by: Enforcement | Literal["refused"]
    remedy: str = ""


@record
class _Lack:
    """What a directive may be refused for, whatever controllers there are.

    `systemd` is its version; the others are empty where nothing is lacking: why no `programs` can
    be attached to a cgroup, and the remedy for an ordinary user who has no user `namespaces`.
    """

    systemd: int
    programs: str
    namespaces: str


@record
class Examination:
    """All that was found. `manager` is the kind that a launch uses, or None where none can be."""

    manager: str | None
    findings: tuple[Finding, ...]
    directives: tuple[Keeping, ...]

    @property
    def good(self) -> bool:
        """Whether jobs can be started here."""
        return all(finding.good for finding in self.findings if finding.needed)


def examine(choice: Choice) -> Examination:
    """Look at this host. Boots the embedded manager, as a launch would, where that is the one."""
    namespaces = os.geteuid() == 0 or userns.available()
    ordinary = _ordinary(namespaces=namespaces) if os.geteuid() else []
    findings = (_linux(), _user(), *_namespaces(), *ordinary)
    try:
        host, version = asyncio.run(_ask(choice))
    except SdboxError as error:
        manager = Finding(name="manager", good=False, seen=error.message, remedy=error.hint)
        return Examination(manager=None, findings=(*findings, manager), directives=())
    known = host.manager if host.manager == "none" else f"{host.manager}, systemd {version}"
    manager = Finding(name="manager", good=True, seen=known)
    lack = _Lack(
        systemd=version, programs=bpf.missing(), namespaces="" if namespaces else userns.remedy()
    )
    return Examination(
        manager=host.manager,
        findings=(*findings, manager, _controllers(host), _gpus(), *_quotas()),
        directives=tuple(_keeping(row, host, lack) for row in DIRECTIVES.values()),
    )


async def _ask(choice: Choice) -> tuple[Host, int]:
    """Go the way that a launch goes, up to the manager's answer."""
    async with Launcher(manager=choice) as launcher:
        return launcher.host, launcher.systemd_version


def _linux() -> Finding:
    release = platform.release()
    numbers = [int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal()]
    oldest = ".".join(map(str, _OLDEST_LINUX))
    return Finding(
        name="Linux",
        good=tuple(numbers) >= _OLDEST_LINUX,
        seen=release,
        remedy=f"Linux {oldest} or newer is needed",
    )


def _user() -> Finding:
    return Finding(name="user", good=True, seen=f"uid {os.geteuid()}")


def _ordinary(*, namespaces: bool) -> list[Finding]:
    """What there is for an ordinary user, for whom not all is."""
    name = usermanager.user_name()
    lingers = Path("/var/lib/systemd/linger", name).exists()
    return [
        Finding(
            name="user namespaces",
            good=namespaces,
            seen="for all that isolates" if namespaces else "none, and so nothing that isolates",
            remedy=userns.remedy(),
            needed=False,
        ),
        Finding(
            name="linger",
            good=lingers,
            seen="yes" if lingers else "no: this user's systemd ends with the last session",
            remedy=f"As root: `loginctl enable-linger {name}`",
            needed=False,
        ),
    ]


def _namespaces() -> list[Finding]:
    return [
        Finding(
            name=f"{name} namespace",
            good=Path("/proc/self/ns", name).exists(),
            seen=f"for {use}",
            remedy=f"Boot a kernel that has {name} namespaces",
        )
        for name, use in _NAMESPACES.items()
    ]


def _controllers(host: Host) -> Finding:
    # No fault: what has no controller is watched or refused, directive by directive.
    return Finding(name="controllers", good=True, seen=" ".join(sorted(host.controllers)) or "none")


def _gpus() -> Finding:
    found = gpus.find()
    seen = ", ".join(f"{one.number} ({one.nodes[0]})" for one in found.values()) or "none"
    remedy = gpus.remedy(found)
    return Finding(name="GPUs", good=not remedy, seen=seen, remedy=remedy, needed=False)


def _quotas() -> list[Finding]:
    if os.geteuid() != 0:
        # Only root has them.
        return []
    places = ", ".join(projects.file_systems())
    seen = places or "none: what jobs have on disk is watched"
    return [Finding(name="project quotas", good=True, seen=seen)]


def _keeping(directive: Directive, host: Host, lack: _Lack) -> Keeping:
    if remedy := _refused(directive, host, lack):
        return Keeping(directive=directive.name, kept_by="refused", remedy=remedy)
    kept_by = keeper(directive, host)
    lacks_controller = bool(directive.controller) and kept_by in (None, "affinity", "watch")
    return Keeping(
        directive=directive.name,
        kept_by=kept_by or "refused",
        remedy=_remedy(directive, host) if lacks_controller else "",
    )


def _refused(directive: Directive, host: Host, lack: _Lack) -> str:
    """Return the remedy where a directive is refused for what is lacking, or nothing."""
    if directive.since > lack.systemd:
        return f"systemd {directive.since} or newer sets it on a scope"
    if directive.programs is not None and lack.programs and host.manager not in ("user", "none"):
        return f"{lack.programs}. {bpf.REMEDY}"
    if directive.name in CALL_FILTERS and (filters := seccomp.unavailable(directive.name)):
        return filters.hint
    if os.geteuid() != 0 and directive.name in OF_ROOT:
        return "only root may"
    return lack.namespaces if directive.name in IN_USER_NAMESPACE else ""


def _remedy(directive: Directive, host: Host) -> str:
    """Return what would have the directive kept, or kept better."""
    if host.manager == "none":
        return "" if directive.controller is None and directive.unit is None else "take a manager"
    if host.manager == "user" and directive.controller is not None:
        return delegation(directive.controller)
    if directive.programs is not None:
        return "only root's systemd can keep it"
    return _controller(directive.controller or "")


def _controller(controller: str) -> str:
    """Return what would give units this controller."""
    # On a v1 or hybrid machine each controller is held by the hierarchy that it is mounted in.
    name = {"io": "blkio"}.get(controller, controller)
    if Path(_V1, name).is_dir():
        return f"cgroup v1 holds it: boot the machine with cgroup_no_v1={name}"
    return f"give this machine's cgroup the {controller} controller (cgroup.subtree_control above)"
