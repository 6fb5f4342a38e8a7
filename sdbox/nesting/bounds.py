"""What may be asked of a manager on behalf of somebody who must not reach it: the checks. Pure.

Requests come from inside a box, so they are read as if the payload had written them: only units
whose names begin as the box's do, only in its slices, and only properties that can't give a job
more than the slice above it has. What is not known is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.errors import ManagerRefused
from sdbox.plan.planner import check_id
from sdbox.plan.slices import owns
from sdbox.properties import OwnSlice, UnitProperty
from sdbox.record import record
from sdbox.syntax.limits import LEAST_MEMORY
from sdbox.values import Refused
from sdbox.values.names import slice_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

NOT_ALLOWED = "sdbox.NotAllowed"

_PREFIX, _SUFFIX = "sdbox-", ".scope"
_TEXT_LONGEST = 1024
_MOST_ITEMS = 64
# Linux has at most 8192 CPUs.
_MASK_BYTES = 1024
_SIGNALS = range(1, 65)


@record
class Start:
    """A scope to be started, in a slice of its own or in one that is there."""

    unit: str
    properties: tuple[UnitProperty, ...]
    own_slice: OwnSlice | None


def refusal(what: str) -> ManagerRefused:
    """Return the error for what may not be asked for."""
    return ManagerRefused(
        f"{what}: not for a box inside of a box", name=NOT_ALLOWED, hint="Ask for it outside"
    )


def job_of(unit: object, prefix: str) -> str:
    """Return the id of the job whose scope that is, which begins with `prefix`."""
    if not isinstance(unit, str) or not unit.endswith(_SUFFIX):
        raise refusal(_shown(unit))
    job = unit.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    if unit != f"{_PREFIX}{job}{_SUFFIX}" or not job.startswith(prefix) or job == prefix:
        raise refusal(_shown(unit))
    check_id(job)
    return job


def read_start(document: Any) -> Start:
    """Read what is asked to be started. Whether it may be, check_start() says."""
    unit, given, own = fields(document, 3)
    own_slice = None
    if own is not None:
        name, limits = fields(own, 2)
        own_slice = OwnSlice(name=text(name), properties=read_properties(limits))
    return Start(unit=text(unit), properties=read_properties(given), own_slice=own_slice)


def check_start(request: Start, *, prefix: str, slices: Collection[str]) -> None:
    """Refuse what is not to be. `slices` are those that it may be in, or its own slice."""
    job = job_of(request.unit, prefix)
    (place,) = [p.value for p in request.properties if p.name == "Slice"] or [""]
    own = request.own_slice
    if place not in (slices if own is None else (own.name,)):
        raise refusal(f"slice {_shown(place)}")
    if own is None:
        return
    _check_own(own.name, job, slices)
    if not any(p.name == "StopWhenUnneeded" for p in own.properties):
        # It would stay when all that is in it has gone.
        raise refusal(f"slice {_shown(own.name)}")


def _check_own(name: str, job: str, slices: Collection[str]) -> None:
    try:
        slice_name(name)
    except Refused:
        raise refusal(f"slice {_shown(name)}") from None
    above = name.removesuffix(".slice").rpartition("-")[0] + ".slice"
    if above not in slices or not owns(name, job):
        raise refusal(f"slice {_shown(name)}")


def read_properties(given: Any) -> tuple[UnitProperty, ...]:
    """Read properties, each once, as [name, value]. Raises ManagerRefused for what is not known."""
    pairs = [fields(pair, 2) for pair in _list(given)]
    if len({text(name) for name, _ in pairs}) != len(pairs):
        raise refusal("a property that is given twice")
    return tuple(_property(name, value) for name, value in pairs)


def _property(name: str, value: Any) -> UnitProperty:
    if name not in _PROPERTIES:
        raise refusal(f"property {_shown(name)}")
    signature = _PROPERTIES[name]
    read = _READERS[signature](value)
    if name == "MemoryMax" and read < LEAST_MEMORY:
        # With less, a user's manager can be made to hang (systemd issue 40208).
        raise refusal(f"a {name} of {read}")
    return UnitProperty(name=name, signature=signature, value=read)


def to_plain(properties: Collection[UnitProperty]) -> list[tuple[str, Any]]:
    """Return what read_properties() reads. Raises ManagerRefused as it would."""
    for one in properties:
        if one.name not in _PROPERTIES:
            raise refusal(f"property {one.name}")
    return [(p.name, list(p.value) if isinstance(p.value, bytes) else p.value) for p in properties]


# systemd's resource-control properties that the kernel keeps from the top of the tree to its
# bottom, and those of a unit that concern nobody but itself. Not so IPAddressAllow=, which would
# take precedence over an IPAddressDeny= of the slice.
_PROPERTIES = {
    "AllowedCPUs": "ay",
    "CPUQuotaPerSecUSec": "t",
    "CPUWeight": "t",
    "Description": "s",
    "IOReadBandwidthMax": "a(st)",
    "IOWriteBandwidthMax": "a(st)",
    "KillSignal": "i",
    "MemoryHigh": "t",
    "MemoryMax": "t",
    "MemorySwapMax": "t",
    "OOMPolicy": "s",
    "RuntimeMaxUSec": "t",
    "Slice": "s",
    "StopWhenUnneeded": "b",
    "TasksMax": "t",
    "TimeoutStopUSec": "t",
}


def number(value: Any) -> int:
    """Read a number of 64 bits."""
    if type(value) is not int or not 0 <= value < 2**64:
        raise refusal(f"number {_shown(value)}")
    return value


def signal_number(value: Any) -> int:
    """Read a signal."""
    if number(value) not in _SIGNALS:
        raise refusal(f"signal {_shown(value)}")
    return int(value)


def text(value: Any) -> str:
    """Read a line that is not too long."""
    if not isinstance(value, str) or len(value) > _TEXT_LONGEST or not value.isprintable():
        raise refusal(_shown(value))
    return value


def _true(value: Any) -> bool:
    if value is not True:
        raise refusal(_shown(value))
    return True


def _mask(value: Any) -> bytes:
    if not isinstance(value, list) or len(value) > _MASK_BYTES:
        raise refusal("a mask of CPUs")
    if not all(type(byte) is int and 0 <= byte < 256 for byte in value):
        raise refusal("a mask of CPUs")
    return bytes(value)


def _rates(value: Any) -> list[list[Any]]:
    pairs = [fields(pair, 2) for pair in _list(value)]
    return [[text(path), number(rate)] for path, rate in pairs]


_READERS: dict[str, Callable[[Any], Any]] = {
    "a(st)": _rates,
    "ay": _mask,
    "b": _true,
    "i": signal_number,
    "s": text,
    "t": number,
}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise refusal("a list")
    return value


def fields(value: Any, count: int) -> list[Any]:
    """Read a list of so many."""
    if not isinstance(value, list) or len(value) != count:
        raise refusal("a request")
    return value


def _shown(value: object) -> str:
    return ascii(value)[:80]
