"""Where CPUs are: which of them share a core, a cache or a NUMA node; and which go well together.

What is known is read from /sys/devices/system/cpu, once; what is chosen from it is pure.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SYSFS = "/sys/devices/system/cpu"

CPUs = frozenset[int]


@record
class Cpu:
    """One CPU that is online. The sets are of the CPUs that share that with it, itself included.

    `cache` is the largest. Numbers are the kernel's, None where it does not tell; a cache that it
    does not tell of counts as one for all.
    """

    number: int
    core_number: int | None
    socket: int | None
    node: int | None
    core: CPUs
    cache: CPUs


def read(directory: str = SYSFS) -> dict[int, Cpu]:
    """Return the CPUs that are online."""
    online = parse(_text(f"{directory}/online") or "0")
    return {number: _cpu(f"{directory}/cpu{number}", number, online) for number in sorted(online)}


def parse(text: str) -> CPUs:
    """Return the CPUs of a list as the kernel writes them: `0-3,8`."""
    return frozenset(cpu for item in text.split(",") if item for cpu in _range(item))


def _range(item: str) -> range:
    low, _, high = item.partition("-")
    return range(int(low), int(high or low) + 1)


def _cpu(directory: str, number: int, online: CPUs) -> Cpu:
    siblings = _text(f"{directory}/topology/thread_siblings_list")
    return Cpu(
        number=number,
        core_number=_number(f"{directory}/topology/core_id"),
        socket=_number(f"{directory}/topology/physical_package_id"),
        node=_node(directory),
        core=parse(siblings) if siblings else frozenset({number}),
        cache=_largest_cache(directory) or online,
    )


def _node(directory: str) -> int | None:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith("node") and entry.name[4:].isdecimal():
                return int(entry.name[4:])
    return None


def _largest_cache(directory: str) -> CPUs | None:
    caches = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{directory}/cache"):
            level = _number(f"{directory}/cache/{name}/level")
            shared = _text(f"{directory}/cache/{name}/shared_cpu_list")
            if level is not None and shared:
                caches.append((level, parse(shared)))
    return max(caches, key=lambda cache: cache[0])[1] if caches else None


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else None


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def choose(count: int, free: CPUs, cpus: Mapping[int, Cpu]) -> tuple[int, ...] | None:
    """Return so many of the free CPUs, those that go best together; None where there are too few.

    They are of one cache where that has enough, else of one node, else of any. Of several such
    places it is the one where the job shares the fewest cores, and of these the fullest, so that
    large jobs find room elsewhere.
    """
    for places in _places(free, cpus):
        picks = {_pick(count, place, cpus): place for place in places if len(place) >= count}
        if picks:
            return min(picks, key=lambda pick: _cost(pick, picks[pick], cpus))
    return None


def _places(free: CPUs, cpus: Mapping[int, Cpu]) -> Iterator[list[CPUs]]:
    """The free CPUs of each cache, then of each node, then all."""
    yield _grouped(free, {cpu: cpus[cpu].cache for cpu in free})
    yield _grouped(free, {cpu: cpus[cpu].node for cpu in free})
    yield [free]


def _grouped(free: CPUs, by: Mapping[int, object]) -> list[CPUs]:
    groups: dict[object, set[int]] = {}
    for cpu in free:
        groups.setdefault(by[cpu], set()).add(cpu)
    return [frozenset(group) for group in groups.values()]


def _pick(count: int, place: CPUs, cpus: Mapping[int, Cpu]) -> tuple[int, ...]:
    """Whole cores first, as far as they go; then what is left of cores that others have a part of.

    Only then a part of a core that is free.
    """
    cores = sorted({tuple(sorted(cpus[cpu].core & place)) for cpu in place})
    whole = [core for core in cores if len(core) == len(cpus[core[0]].core)]
    picked: list[int] = []
    for core in whole:
        if len(core) <= count - len(picked):
            picked += core
    parts = sorted((core for core in cores if core not in whole), key=len)
    rest = [cpu for core in (*parts, *whole) for cpu in core if cpu not in picked]
    return tuple(sorted(picked + rest[: count - len(picked)]))


def _cost(
    pick: tuple[int, ...], place: CPUs, cpus: Mapping[int, Cpu]
) -> tuple[int, int, tuple[int, ...]]:
    """How many cores are shared, and how much room is left: the less, the better."""
    return len(_shared(pick, cpus)), len(place), pick


def _shared(pick: Iterable[int], cpus: Mapping[int, Cpu]) -> set[CPUs]:
    mine = frozenset(pick)
    return {cpus[cpu].core for cpu in mine if not cpus[cpu].core <= mine}
