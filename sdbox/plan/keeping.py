"""Who keeps a directive for a job on this host, or why nobody does. Pure."""

from __future__ import annotations

from sdbox.directives import DIRECTIVES
from sdbox.errors import Unenforceable
from sdbox.values import INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sdbox.directives import Directive
    from sdbox.host.facts import Host
    from sdbox.host.users import Credentials
    from sdbox.plan.planner import Caller
    from sdbox.properties import UnitType
    from sdbox.result import Enforcement


# What an ordinary user has but for himself.
OF_ROOT = ("User", "Group", "AmbientCapabilities", "MountImages")

# And what he has in a user namespace of his own: itself, or what it goes with.
IN_USER_NAMESPACE = (
    *("PrivateTmp", "PrivateTmpSize", "PrivateShm", "PrivatePIDs", "PrivateIPC", "PrivateNetwork"),
    *("CapabilityBoundingSet", "ProtectProc", "PrivateDevices", "ProtectKernelTunables"),
    *("ProtectKernelModules", "ProtectControlGroups", "ManagerAccess", "RootDirectory"),
    *("RootEphemeral", "ScratchDirectory", "MountUnderScratch", "DiskMax", "TemporaryFileSystem"),
    *("BindPaths", "BindReadOnlyPaths", "ProtectSystem", "ProtectHome", "ReadWritePaths"),
    *("ReadOnlyPaths", "InaccessiblePaths", "Nestable"),
)


def keeper(directive: Directive, host: Host) -> Enforcement | None:
    """Return who keeps a directive on this host, or None where nobody can."""
    if host.manager == "none" and directive.unit is not None:
        return "watch" if directive.watch or directive.unmanaged else None
    if directive.programs is not None:
        # Which only root may load.
        return "kernel" if host.manager not in ("user", "none") else None
    if directive.controller is None:
        return "watch" if directive.watch else "manager" if directive.unit else "kernel"
    if directive.controller in host.controllers:
        return "kernel"
    return "watch" if directive.watch else "affinity" if directive.affinity else None


def kept(name: str, value: Any, host: Host) -> Enforcement:
    """Return who keeps a value. Raises Unenforceable."""
    directive = DIRECTIVES[name]
    kept_by = keeper(directive, host)
    if directive.controller is not None and value == INFINITY:
        # No limit is kept everywhere.
        return "kernel"
    if kept_by is None:
        raise _unenforceable(directive, host)
    return kept_by


def _unenforceable(directive: Directive, host: Host) -> Unenforceable:
    if host.manager == "none":
        return Unenforceable(
            f"{directive.name}: nobody can keep it without a manager",
            hint="Leave it out, or use another --manager than none",
        )
    if directive.programs is not None:
        return Unenforceable(
            f"{directive.name}: only root's systemd can keep it", hint="Run sdbox as root"
        )
    hint = f"Leave it out; `sdbox doctor` tells what keeps {directive.controller} away"
    if host.manager == "user":
        hint = f"Leave it out, or {delegation(directive.controller or '')}"
    return Unenforceable(
        f"{directive.name}: this host has no {directive.controller} controller for its units",
        hint=hint,
    )


def delegation(controller: str) -> str:
    """Return what gives users' managers a controller."""
    return (
        f"have root delegate {controller} to users' managers: `systemctl edit user@.service`,"
        " [Service], Delegate=cpu cpuset io memory pids"
    )


def kept_as(unit_type: UnitType, caller: Caller) -> UnitType:
    """Return the type of unit by whose rules systemd and init share the work.

    For a service systemd does more than for a scope. A user's systemd would do that in a user
    namespace of its own making, of which init knows nothing: so there init does it for both.
    """
    return "scope" if caller.user is not None else unit_type


def check_unit(host: Host, unit_type: UnitType, directives: Mapping[str, Any]) -> None:
    """Refuse a unit that there can't be. Raises Unenforceable."""
    if host.manager == "none" and directives.get("Nestable"):
        raise Unenforceable(
            "Nestable: without a manager there are no slices",
            hint="Leave it out, or use another --manager",
        )
    if host.manager == "none" and unit_type == "service":
        raise Unenforceable(
            "--service, --detach: without a manager there are no services",
            hint="Leave it out, or use another --manager",
        )


def check_caller(
    caller: Caller, credentials: Credentials | None, directives: Mapping[str, Any]
) -> None:
    """Refuse what an ordinary user may not give away. Raises Unenforceable."""
    if caller.user is None:
        return
    for name in OF_ROOT[2:]:
        if directives.get(name):
            raise Unenforceable(f"{name}: only root may", hint="Leave it out, or run sdbox as root")
    if directives.get("Nestable") and directives.get("ProtectHome") == "yes":
        raise Unenforceable(
            "Nestable: ProtectHome=yes hides where an ordinary user's box has its way out",
            hint="Give ProtectHome=tmpfs, or leave out one of them",
        )
    uid, gid = caller.user
    if credentials is not None and (credentials.uid not in (None, uid) or credentials.gid != gid):
        raise Unenforceable(
            "User, Group: only root may start a job as another user or group",
            hint="Leave them out, or run sdbox as root",
        )
