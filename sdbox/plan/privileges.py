"""What a payload may do, as its box says and where that says nothing: init's work. Pure."""

from __future__ import annotations

from sdbox.directives import DIRECTIVES
from sdbox.errors import InvalidDirective
from sdbox.values import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from sdbox.host.users import Credentials
    from sdbox.properties import UnitType

    Operation = tuple[str, dict[str, Any]]

# The directives that are kept by filters of system calls.
CALL_FILTERS = (
    *("SystemCallFilter", "SystemCallArchitectures", "ProtectKernelModules", "PrivateDevices"),
    *("RestrictNamespaces", "RestrictAddressFamilies", "RestrictRealtime", "RestrictSUIDSGID"),
    *("LockPersonality", "MemoryDenyWriteExecute"),
)
# What says that nothing is to be filtered.
_NOTHING = ("no",)
# The capabilities that they take: systemd.exec(5).
_IMPLIED = {
    "ProtectKernelModules": ("CAP_SYS_MODULE",),
    "PrivateDevices": ("CAP_MKNOD", "CAP_SYS_RAWIO"),
}


def check(directives: Mapping[str, Any], credentials: Credentials | None) -> None:
    """Refuse what can't be had together. Raises InvalidDirective."""
    filters = [n for n in CALL_FILTERS if directives.get(n) and directives[n] != _NOTHING]
    is_other = credentials is not None and bool(credentials.uid)
    if filters and is_other and not directives.get("NoNewPrivileges", True):
        raise InvalidDirective(
            f"{filters[0]}: a job of another user needs NoNewPrivileges for it",
            hint="Leave NoNewPrivileges=no out",
        )
    if "SystemCallErrorNumber" in directives and "SystemCallFilter" not in directives:
        raise InvalidDirective(
            "SystemCallErrorNumber: there is no SystemCallFilter", hint="Give both, or none"
        )
    if _ambient(directives) & ~capabilities.bounding(directives.get("CapabilityBoundingSet", ())):
        raise InvalidDirective(
            "AmbientCapabilities: has what is not in CapabilityBoundingSet",
            hint="Name it in both, or leave CapabilityBoundingSet out",
        )


def _ambient(directives: Mapping[str, Any]) -> int:
    return capabilities.ambient(directives.get("AmbientCapabilities", ()))


def bounded(directives: Mapping[str, Any], credentials: Credentials | None) -> int:
    """The capabilities that the payload may come by: another user has none by default."""
    if "CapabilityBoundingSet" not in directives and credentials is not None and credentials.uid:
        keep = _ambient(directives)
    else:
        keep = capabilities.bounding(directives.get("CapabilityBoundingSet", ()))
    for name, implied in _IMPLIED.items():
        if directives.get(name):
            keep &= ~sum(map(capabilities.bit, implied))
    return keep


def passes_quotas(directives: Mapping[str, Any], credentials: Credentials | None) -> bool:
    """Whether limits of quotas may be none for the payload."""
    return bool(bounded(directives, credentials) & capabilities.bit("CAP_SYS_RESOURCE"))


def as_root(directives: Mapping[str, Any], credentials: Credentials | None) -> Iterator[Operation]:
    """What init does before the payload becomes another user."""
    keep = bounded(directives, credentials)
    if keep == capabilities.ALL and "CapabilityBoundingSet" not in directives:
        return
    yield "CapabilityBoundingSet", {"keep": keep, "ambient": bool(_ambient(directives))}


def as_user(
    directives: Mapping[str, Any], unit_type: UnitType, call_filters: Sequence[bytes] = ()
) -> Iterator[Operation]:
    """What init does afterwards. The last is what hinders it most."""
    if ambient := _ambient(directives):
        yield "AmbientCapabilities", {"keep": ambient}
    if directives.get("NoNewPrivileges", True) and not _is_systemds(directives, unit_type):
        yield "NoNewPrivileges", {}
    if call_filters:
        yield "SystemCallFilter", {"programs": list(call_filters)}


def _is_systemds(directives: Mapping[str, Any], unit_type: UnitType) -> bool:
    """Whether it was asked for, and systemd has seen to it."""
    row = DIRECTIVES["NoNewPrivileges"]
    return row.name in directives and row.properties(unit_type) is not None
