"""What a directive comes down to: a property of the unit, and a file of its cgroup."""

from __future__ import annotations

from sdbox.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@record
class UnitProperty:
    """A property of a transient unit, as StartTransientUnit takes it."""

    name: str
    signature: str
    value: Any


@record
class CgroupFile:
    """A file of the unit's cgroup and what it holds once the kernel keeps the directive."""

    name: str
    contents: str
