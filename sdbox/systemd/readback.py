"""Making sure that the kernel keeps what was asked for: systemd says `done` without it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdbox.errors import Unenforceable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdbox.cgroup import Cgroup
    from sdbox.properties import CgroupFile

_CPUS, _GRANTED = "cpuset.cpus", "cpuset.cpus.effective"


def check(
    unit: str, cgroup: Cgroup, files: Iterable[CgroupFile], *, all_cpus: bool = False
) -> None:
    """Read files of a unit's cgroup back. Raises Unenforceable.

    `all_cpus`: the unit is to have all of the CPUs in them, since no other job is given these.
    """
    for file in files:
        contents = cgroup.read(file.name)
        if contents != file.contents:
            raise Unenforceable(
                f"{unit}: {file.name} is {contents}, where {file.contents} was asked for",
                hint="See `sdbox doctor` for the controllers that units have here",
            )
        if file.name == _CPUS and contents:
            _check_granted(unit, contents, cgroup.read(_GRANTED) or "", all_cpus=all_cpus)


def _check_granted(unit: str, asked: str, granted: str, *, all_cpus: bool) -> None:
    """What a cgroup above doesn't have is left out; all that it has is given where none is left."""
    from sdbox.cpus.topology import parse

    has, wanted = parse(granted), parse(asked)
    if has == wanted or (has and has < wanted and not all_cpus):
        return
    raise Unenforceable(
        f"{unit}: the kernel lets it have CPUs {granted}, where {asked} was asked for",
        hint=(
            "Have its slice run before, by `systemctl start`: then CPUs are taken of that one's"
            if all_cpus
            else "Ask for CPUs that its slice has"
        ),
    )
