"""What a directive comes down to: a property of the unit, and a file of its cgroup."""

from __future__ import annotations

from sdbox.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    UnitType = Literal["scope", "service"]


@record
class UnitProperty:
    """A property of a transient unit, as StartTransientUnit takes it.

    A systemd older than `since` is not given it: init does what it stands for.
    """

    name: str
    signature: str
    value: Any
    since: int = 0


@record
class OwnSlice:
    """The slice that a nestable job has for itself, and its properties."""

    name: str
    properties: tuple[UnitProperty, ...]


@record
class CgroupFile:
    """A file of the unit's cgroup and what it holds once the kernel keeps the directive."""

    name: str
    contents: str
