"""Boxes in a box: a slice for each one that may have others inside, and how all are called. Pure.

A nestable job has a slice of its own, with its limits on it, below the slice that it would be in.
Its unit is in there, and so are those of the jobs that are started inside of it. Their ids begin
with its own: `outer.inner` is in `sdbox-outer.slice`, and if it is nestable as well, in
`sdbox-outer-inner.slice` below that.
"""

from __future__ import annotations

from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.properties import OwnSlice, UnitProperty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdbox.host.facts import Host
    from sdbox.properties import UnitType

SLICE = "sdbox.slice"
# The root slice has no name to begin another one's with.
_ROOT = "-.slice"
_NAME_LONGEST = 255

# What systemd takes for a unit and not for a slice, or what would mean something else there.
UNITS_OWN = frozenset(
    ("RuntimeMaxUSec", "OOMPolicy", "KillSignal", "TimeoutStopUSec", "Slice", "Description")
)

# What systemd hands on from a slice to the units in it: each has programs of its own on its cgroup,
# for which it is asked.
_ON_SLICE_AND_UNIT = frozenset(("IPAddressAllow", "IPAddressDeny", "DevicePolicy", "DeviceAllow"))


def own_slice(above: str, name: str) -> str:
    """Return the slice of a nestable job, by its id without that of the box around it.

    A dash is a level of slices (systemd.slice(5)), so one in the id is escaped as in
    systemd.unit(5). Raises InvalidDirective.
    """
    if above == _ROOT:
        raise InvalidDirective(
            f"Nestable: a box can't have a slice of its own below {_ROOT}",
            hint="Give another --slice, or none",
        )
    slice_name = slice_below(above, name)
    if len(slice_name) > _NAME_LONGEST:
        raise InvalidDirective(
            f"Nestable: {slice_name[:40]}… is longer than the {_NAME_LONGEST} characters that a"
            " slice's name can have",
            hint="Give a shorter --id, here or to the boxes around it",
        )
    return slice_name


def slice_below(above: str, name: str) -> str:
    """Return the name of a slice below another one."""
    escaped = name.replace("-", "\\x2d")
    return f"{_stem(above)}-{escaped}.slice"


def owns(slice_name: str, job: str) -> bool:
    """Whether that is the slice of a nestable job's own, as it has that name."""
    levels = [level.replace("\\x2d", "-") for level in _stem(slice_name).split("-")]
    return any(".".join(levels[n:]) == job for n in range(1, len(levels)))


def slice_path(name: str) -> str:
    """Return the cgroup of a slice: `a-b.slice` is in `a.slice` (systemd.slice(5))."""
    if name == "-.slice":
        return ""
    levels = name.removesuffix(".slice").split("-")
    return "".join(f"/{'-'.join(levels[:n])}.slice" for n in range(1, len(levels) + 1))


def slice_for(asked: str | None, job: str, unit_type: UnitType, host: Host) -> str:
    """Return the slice that a job is to be in, or that its own slice is to be in.

    Raises InvalidDirective, and Unenforceable for what a box inside of a box can't be.
    """
    if host.prefix and unit_type == "service":
        raise Unenforceable(
            "A service can't be started inside of a box: systemd would start it outside",
            hint="Leave out --service and --detach",
        )
    name = asked or host.slice
    if host.prefix and name != host.slice:
        raise InvalidDirective(
            f"Slice: {name} is not the slice of the box that this is in, {host.slice}",
            hint="Leave it out",
        )
    if owns(name, job):
        raise InvalidDirective(
            f"Slice: {name} would be the slice of the box {job} itself", hint="Choose another id"
        )
    return name


def divided(
    name: str, job: str, limits: Sequence[UnitProperty], properties: Sequence[UnitProperty]
) -> tuple[OwnSlice, list[UnitProperty]]:
    """Return a nestable job's slice, which goes with the last unit in it, and what its unit keeps.

    `limits` are the properties that a scope of it would have, `properties` those of its unit.
    """
    of_slice = [p for p in limits if p.name not in UNITS_OWN]
    own = OwnSlice(
        name=name,
        properties=(
            UnitProperty(name="Description", signature="s", value=f"sdbox job {job}, all of it"),
            UnitProperty(name="StopWhenUnneeded", signature="b", value=True),
            *of_slice,
        ),
    )
    return own, [p for p in properties if p not in of_slice or p.name in _ON_SLICE_AND_UNIT]


def _stem(slice_name: str) -> str:
    return slice_name.removesuffix(".slice")
