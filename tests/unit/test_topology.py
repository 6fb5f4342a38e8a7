"""Which CPUs go together: whole cores, one cache, one node, and room left for large jobs."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.cpus.topology import Cpu, choose, parse


def machine(*, nodes: int = 1, caches: int = 1, cores: int, threads: int = 2) -> dict[int, Cpu]:
    """CPUs numbered as the kernel does: the first threads of all cores, then the second ones."""
    all_cores = nodes * caches * cores
    found = {}
    for number in range(all_cores * threads):
        core = number % all_cores
        cache = core // cores
        in_cache = range(cache * cores, (cache + 1) * cores)
        found[number] = Cpu(
            number=number,
            core_number=core,
            socket=cache // caches,
            node=cache // caches,
            core=frozenset(core + all_cores * thread for thread in range(threads)),
            cache=frozenset(c + all_cores * thread for c in in_cache for thread in range(threads)),
        )
    return found


# Of two nodes each has two caches of two cores of two threads: node 0 is 0-3,8-11.
SERVER = machine(nodes=2, caches=2, cores=2)
LAPTOP = machine(cores=4)


@pytest.mark.parametrize(
    ("count", "free", "chosen"),
    [
        # A whole core and not two halves.
        (2, "0-7", (0, 4)),
        # What is left of a core before a new one is broken.
        (1, "0-4,6-7", (1,)),
        (1, "0-2,4-7", (7,)),
        # Whole cores as far as they go.
        (3, "0-7", (0, 1, 4)),
        (3, "0,1,2,4,5,7", (0, 2, 4)),
        # Halves where there is nothing better.
        (2, "0-3", (0, 1)),
        (3, "0-3", (0, 1, 2)),
        (4, "0-3", (0, 1, 2, 3)),
        (1, "", None),
        (5, "0-3", None),
    ],
)
def test_cores(count: int, free: str, chosen: tuple[int, ...] | None) -> None:
    assert choose(count, parse(free), LAPTOP) == chosen


@pytest.mark.parametrize(
    ("count", "free", "chosen"),
    [
        # One cache: the fullest that has room, with whole cores.
        (4, "0-15", (0, 1, 8, 9)),
        (2, "1,9,2,3,10,11", (1, 9)),
        (2, "0,2,3,10,11", (2, 10)),
        # One node where no cache has enough: 4-7,12-15 is node 1.
        (6, "0-3,4-7,12-15", (4, 5, 6, 12, 13, 14)),
        (5, "0,1,2,3,8,4,5,12", (0, 1, 2, 3, 8)),
        # All where no node has.
        (9, "0-15", (0, 1, 2, 3, 4, 8, 9, 10, 11)),
    ],
)
def test_caches_and_nodes(count: int, free: str, chosen: tuple[int, ...]) -> None:
    found = choose(count, parse(free), SERVER)
    assert found is not None
    assert set(found) <= parse(free)
    assert found == chosen


# Of two nodes each has one cache of two cores of four threads: core 0 is 0,4,8,12.
FOURFOLD = machine(nodes=2, cores=2, threads=4)


@pytest.mark.parametrize(
    ("count", "free", "chosen"),
    [
        # What is left of one core, and not of several.
        (3, "0,1,2,3,7,11", (3, 7, 11)),
        # The smallest that is enough.
        (1, "0,4,1", (1,)),
        # The largest first where none is.
        (4, "0,4,8,1,5,2", (0, 2, 4, 8)),
        # One that is free, rather than two that others have a part of.
        (2, "0,1,5,9,13,2", (1, 5)),
    ],
)
def test_cores_of_four_threads(count: int, free: str, chosen: tuple[int, ...]) -> None:
    assert choose(count, parse(free), machine(cores=4, threads=4)) == chosen


def test_whole_cores_of_a_node_rather_than_parts_in_a_cache() -> None:
    """Each cache of node 0 has a core free, and one of node 1 a thread of each of its cores."""
    cpus = machine(nodes=2, caches=2, cores=4)
    assert choose(4, parse("0,16,4,20,8-11"), cpus) == (0, 4, 16, 20)
    # Whole ones in a cache are better.
    assert choose(4, parse("0,16,4,20,8-11,24-25"), cpus) == (8, 9, 24, 25)


@given(st.frozensets(st.integers(0, 15)), st.integers(1, 8))
def test_no_cpus_of_one_node_share_fewer_cores(free: frozenset[int], count: int) -> None:
    for cpus in (SERVER, FOURFOLD):
        nodes = [[cpu for cpu in free if cpus[cpu].node == node] for node in (0, 1)]
        least = min(
            (shared(some, cpus) for node in nodes for some in combinations(node, count)),
            default=None,
        )
        if least is not None:
            assert shared(choose(count, free, cpus) or (), cpus) == least


def shared(some: tuple[int, ...], cpus: dict[int, Cpu]) -> int:
    """How many cores are not theirs alone."""
    return len({cpus[cpu].core for cpu in some if not cpus[cpu].core <= set(some)})


@given(st.frozensets(st.integers(0, 15)), st.integers(1, 17))
def test_it_is_so_many_free_ones_whenever_there_are(free: frozenset[int], count: int) -> None:
    found = choose(count, free, SERVER)
    if count > len(free):
        assert found is None
        return
    assert found is not None
    assert len(set(found)) == count == len(found)
    assert free.issuperset(found)
    assert list(found) == sorted(found)


def test_lists_of_the_kernel() -> None:
    assert parse("0-3,8,10-11") == {0, 1, 2, 3, 8, 10, 11}
    assert parse("") == frozenset()
