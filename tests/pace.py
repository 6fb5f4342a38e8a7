"""How slow the machine is that the tests run on: waits are that much longer, repetitions fewer."""

from __future__ import annotations

import os

# Whoever runs the tests on an emulated processor says how much slower than a real one it is.
SLOWNESS = float(os.environ.get("SDBOX_TEST_SLOWNESS", "1"))
# And where all is done a second time, on another system, how much of what is repeated suffices.
_REPETITIONS = float(os.environ.get("SDBOX_TEST_REPETITIONS", "1"))


def seconds(usual: float) -> float:
    """Return what may take so many seconds on a usual machine."""
    return usual * SLOWNESS


def times(usual: int, least: int = 1) -> int:
    """Return how often to do what is done so many times on a usual machine."""
    return max(least, round(usual * _REPETITIONS / SLOWNESS))
