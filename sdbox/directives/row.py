"""What a directive is: one row of the table."""

from __future__ import annotations

from types import MappingProxyType

from sdbox.record import record
from sdbox.values import Percent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from sdbox.properties import CgroupFile, UnitProperty, UnitType
    from sdbox.syntax import ListSyntax, Syntax


def _as_given(raw: str, environment: Mapping[str, str]) -> object:
    return raw


@record
class Option:
    """A directive's own command-line option."""

    flag: str
    metavar: str = ""
    """Stands for the value in help texts; the syntax's own word where empty."""
    constant: str | None = None
    """What the option says by being there; None where it takes a value."""
    repeats: bool = False
    also: Mapping[str, object] = MappingProxyType({})
    """What it says of other directives."""
    to_value: Callable[[str, Mapping[str, str]], object] = _as_given
    """Raw text and the caller's environment to what the directive reads; raises Refused."""


@record
class Directive:
    """One row: a setting under systemd's name, with systemd's meaning."""

    name: str
    syntax: Syntax | ListSyntax
    section: str
    help: str
    option: Option | None = None
    resets: tuple[str, ...] = ()
    """The directives that an empty assignment empties. Such a directive accumulates."""
    unit: Callable[[Any], tuple[UnitProperty, ...]] | None = None
    """The value as properties of the unit. Where it is None, init or a watch keeps it."""
    service: Callable[[Any], tuple[UnitProperty, ...]] | None = None
    """The value as properties that only a service takes, of which systemd does the same as init.

    Not those by which init itself could not start, or not be where it has work to do: what hides
    files from it, makes it another user or takes resources from it is always init's own work. Nor
    PrivateIPC=, for which systemd wants a /dev/mqueue to mount on, which containers lack.
    """
    since: int = 0
    """The first systemd that takes it on a scope; 0 where every supported one does."""
    since_values: Mapping[Any, int] = MappingProxyType({})
    """The same for values that came later."""
    controller: str | None = None
    """The cgroup controller that keeps it."""
    files: Callable[[Any], tuple[CgroupFile, ...]] | None = None
    """What to read back from the cgroup, where that can be known beforehand."""
    programs: Callable[[Any], tuple[str, ...]] | None = None
    """The BPF programs on the cgroup that keep the value, by sdbox.kernel.bpf's names."""
    watch: bool = False
    """Whether sdbox can keep it by watching where the controller is not there."""
    unmanaged: bool = False
    """Whether sdbox itself keeps what is the unit's, where there is no manager."""
    affinity: bool = False
    """Whether CPU affinity keeps it where the controller is not there."""
    share_of: str = ""
    """What a percentage is of: `memory` or `tasks`."""

    @property
    def accumulates(self) -> bool:
        """Whether assigning twice adds up instead of replacing."""
        return bool(self.resets)

    def keeper(self, unit_type: UnitType = "scope") -> str:
        """Who keeps it: `unit`, `init`, or `watch` where only sdbox can."""
        return "unit" if self.properties(unit_type) else "watch" if self.watch else "init"

    def properties(
        self, unit_type: UnitType = "scope"
    ) -> Callable[[Any], tuple[UnitProperty, ...]] | None:
        """The value as properties of a unit of that type, if systemd keeps it there."""
        return self.unit or (self.service if unit_type == "service" else None)

    def read_back(self, value: Any) -> tuple[CgroupFile, ...]:
        """The value as files of the cgroup, as far as that can be known beforehand."""
        return () if self.files is None else self.files(value)

    def needs_version(self, value: Any, unit_type: UnitType = "scope") -> int:
        """The first systemd that takes this value; 0 where every supported one does."""
        return max(self.since if unit_type == "scope" else 0, self.since_values.get(value, 0))

    def resolve(self, value: Any, totals: Mapping[str, int]) -> Any:
        """`value` with a percentage made the number that it is on a host with these `totals`.

        `totals` has bytes of physical memory under `memory`, and the most tasks the system can
        have under `tasks`. Raises InvalidDirective where the number is one that is not taken.
        """
        if not self.share_of or not isinstance(value, Percent):
            return value
        return self.syntax.read(value.of(totals[self.share_of]), f"{self.name} ({value})")
