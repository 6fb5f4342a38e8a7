"""How often a watch looks: as often as a limit needs it, and as its share of a CPU allows."""

from __future__ import annotations

import time

import pytest

from sdbox import loop
from sdbox.watch.limits import LONGEST_REST, Excess, keep

EXCESS = Excess(reason="memory", message="Too much.", ask=False)


class Looks:
    """A watch that needs a CPU for so long at each look, and then says what it is told to."""

    share = 0.01

    def __init__(self, cost: float, *seen: float | Excess) -> None:
        self._cost = cost
        self._seen = list(seen)
        self.clock = 0.0
        self.rests: list[float] = []

    def look(self) -> Excess | float:
        self.clock += self._cost
        return self._seen.pop(0)

    async def rest(self, seconds: float) -> None:
        self.rests.append(seconds)


def kept(monkeypatch: pytest.MonkeyPatch, watch: Looks) -> list[Excess]:
    """What came of a limit that is kept until the last look."""
    told: list[Excess] = []
    monkeypatch.setattr(time, "thread_time", lambda: watch.clock)
    monkeypatch.setattr(loop, "sleep", watch.rest)
    loop.run(keep(watch, told.append))
    return told


@pytest.mark.parametrize(
    ("cost", "wanted", "rest"),
    [
        # As asked for, where looking is cheap.
        (0.0005, 0.1, 0.1),
        (0.0005, 3.0, 3.0),
        # A hundred times what it took.
        (0.002, 0.1, 0.2),
        (0.04, 0.1, 4.0),
        # A limit must be kept, whatever that costs.
        (1.0, 0.1, LONGEST_REST),
        (0.0005, 1e9, LONGEST_REST),
    ],
)
def test_a_watch_takes_its_share_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch, cost: float, wanted: float, rest: float
) -> None:
    watch = Looks(cost, wanted, wanted, EXCESS)
    assert kept(monkeypatch, watch) == [EXCESS]
    assert watch.rests == pytest.approx([rest, rest])
