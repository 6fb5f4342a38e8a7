"""Where CPUs are: which of them share a core, a cache or a NUMA node; and which go well together.

What is known is read from /sys/devices/system/cpu, once; what is chosen from it is pure.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def choose(count: int, free: CPUs, cpus: Mapping[int, Cpu]) -> tuple[int, ...] | None:
    """Return so many of the free CPUs, those that go best together; None where there are too few.

    They are of one cache or of one node, where one has enough, else of any. Of several such places
    it is the one where the job shares the fewest cores, of these a cache rather than a node, and of
    these the fullest, so that large jobs find room elsewhere.
    """
    for places in (_near(free, cpus), [(0, free)]):
        picks = [_weighed(count, *place, cpus) for place in places if len(place[1]) >= count]
        if picks:
            return min(picks)[-1]
    return None


def _near(free: CPUs, cpus: Mapping[int, Cpu]) -> list[tuple[int, CPUs]]:
    """The free CPUs of each cache, and of each node, which is a level above."""
    caches = _grouped(free, {cpu: cpus[cpu].cache for cpu in free})
    nodes = _grouped(free, {cpu: cpus[cpu].node for cpu in free})
    return [*((0, place) for place in caches), *((1, place) for place in nodes)]


def _grouped(free: CPUs, by: Mapping[int, object]) -> list[CPUs]:
    groups: dict[object, set[int]] = {}
    for cpu in free:
        groups.setdefault(by[cpu], set()).add(cpu)
    return [frozenset(group) for group in groups.values()]


def _weighed(
    count: int, level: int, place: CPUs, cpus: Mapping[int, Cpu]
) -> tuple[int, int, int, tuple[int, ...]]:
    """A pick, and before it what is the better the less it is: shared cores, level, room there."""
    pick = _pick(count, place, cpus)
    return len(_shared(pick, cpus)), level, len(place), pick


def _pick(count: int, place: CPUs, cpus: Mapping[int, Cpu]) -> tuple[int, ...]:
    """Whole cores first, as far as they go; then of as few others as can be.

    So the rest is of the smallest that has as much free, which is what is left of a core before it
    is a whole one, or of the largest if none has.
    """
    cores = sorted({tuple(sorted(cpus[cpu].core & place)) for cpu in place})
    picked: list[int] = []
    others = []
    for core in cores:
        is_whole = len(core) == len(cpus[core[0]].core)
        if is_whole and len(core) <= count - len(picked):
            picked += core
        else:
            others.append(core)
    while rest := count - len(picked):
        enough = [core for core in others if len(core) >= rest]
        core = min(enough, key=len) if enough else max(others, key=len)
        others.remove(core)
        picked += core[:rest]
    return tuple(sorted(picked))


def _shared(pick: Iterable[int], cpus: Mapping[int, Cpu]) -> set[CPUs]:
    mine = frozenset(pick)
    return {cpus[cpu].core for cpu in mine if not cpus[cpu].core <= mine}
