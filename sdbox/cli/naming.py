"""JOB on the command line: an id, a unit's name or a shell pattern, several at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from sdbox.cli.talk import complain
from sdbox.errors import NoSuchJob, SdboxError
from sdbox.management.verbs import no_such_job
from sdbox.systemd.endpoint import MANAGERS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from sdbox.loop import Semaphore
    from sdbox.management.jobs import Jobs, JobStatus

    Act = Callable[[Jobs, JobStatus], Awaitable[object]]

# For each job that somebody waits for, systemd has a match rule at the bus; with more than 512 of
# them the bus refuses, and systemd fails its connection (sd-bus.c, add_match_callback).
_AT_ONCE = 64

PATTERN_HELP = "an id, a unit's name, or a shell pattern such as 'batch-*'"


def add_jobs(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """Add JOB... and --manager to a verb's parser."""
    parser.add_argument(
        "jobs", nargs="+" if needed else "*", metavar="JOB", help=PATTERN_HELP, type=str
    )
    add_manager(parser)


def add_manager(parser: argparse.ArgumentParser) -> None:
    """Add --manager to a verb's parser."""
    parser.add_argument(
        "--manager", choices=MANAGERS, default="auto", help="the systemd to ask (default: auto)"
    )


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run a verb to its end, as a program that signals end in the usual way."""
    from sdbox import loop

    # Not Python's: neither ^C nor a reader that has seen enough is worth a traceback.
    for number in (signal.SIGINT, signal.SIGPIPE):
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)
    return loop.run(main)


async def find(jobs: Jobs, names: Sequence[str]) -> tuple[list[JobStatus], int]:
    """Return the jobs of these names, and the exit status: not 0 when a name has none."""
    from sdbox.management.jobs import named

    found = list(await jobs.find(*names))
    missing = [name for name in names if not any(named(one.unit, name) for one in found)]
    for name in missing:
        complain(str(no_such_job(name)))
    return found, NoSuchJob.exit_status if missing else 0


async def for_each(arguments: argparse.Namespace, act: Act) -> int:
    """Do something to every job that is named, at the same time; return the exit status.

    What goes wrong with one job keeps no other from its turn.
    """
    from sdbox import loop
    from sdbox.management.jobs import Jobs

    turns = loop.Semaphore(_AT_ONCE)
    async with Jobs(manager=arguments.manager) as jobs:
        found, status = await find(jobs, arguments.jobs)
        attempts = (_attempt(turns, act, jobs, job) for job in found)
        failures = await loop.gather(*attempts)
    return next((failure for failure in failures if failure), status)


async def _attempt(turns: Semaphore, act: Act, jobs: Jobs, job: JobStatus) -> int:
    await turns.acquire()
    try:
        await act(jobs, job)
    except SdboxError as error:
        complain(str(error))
        return error.exit_status
    finally:
        turns.release()
    return 0
