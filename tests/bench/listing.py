"""What `sdbox list` costs: with no job, and with a thousand.

tests/bench/listing.py [--jobs N] [--runs N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sdbox import bus
from sdbox.management import jobs
from sdbox.systemd.endpoint import Endpoint, locate
from tests.scopes import scopes

_COMMAND = "import sys; sys.path.insert(0, {!r}); from sdbox.cli import entry; entry()"
# What is to be reached.
MOST_SECONDS_MORE = 1.0


def listed(runs: int) -> tuple[float, int]:
    """The median of `sdbox list` in seconds, and how many lines it prints."""
    program = _COMMAND.format(str(Path(jobs.__file__).parents[1]))
    spans, lines = [], 0
    for _ in range(runs):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-I", "-c", program, "list"], check=True, capture_output=True
        )
        spans.append(time.perf_counter() - start)
        lines = done.stdout.count(b"\n")
    return statistics.median(spans), lines


async def calls() -> int:
    """How many calls of D-Bus one listing makes, on a connection that is there."""
    made = 0
    call = bus.Bus.call

    async def counted(self: bus.Bus, **arguments: object) -> list[object]:
        nonlocal made
        made += 1
        return await call(self, **arguments)  # type: ignore[arg-type]

    async with jobs.Jobs() as all_jobs:
        bus.Bus.call = counted  # type: ignore[method-assign]
        try:
            await all_jobs.find()
        finally:
            bus.Bus.call = call  # type: ignore[method-assign]
    return made


async def measure(endpoint: Endpoint, count: int, runs: int) -> None:
    """Measure, and print."""
    empty, before = listed(runs)
    async with scopes(endpoint, f"bench{os.getpid()}", count):
        full, lines = listed(runs)
        made = await calls()
    print(f"sdbox list, {before:5} jobs: {empty:.3f} s")
    print(f"sdbox list, {lines:5} jobs: {full:.3f} s, {made} call of systemd")
    print(f"more: {full - empty:.3f} s (to be reached: {MOST_SECONDS_MORE:g} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    endpoint = locate("auto", notice=print)
    asyncio.run(measure(endpoint, arguments.jobs, arguments.runs))
    endpoint.close()


if __name__ == "__main__":
    main()
