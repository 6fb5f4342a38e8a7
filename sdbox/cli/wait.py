"""`sdbox wait`: waits for the end of jobs, whoever started them, and tells how they ended."""

from __future__ import annotations

import gc
import resource
from typing import TYPE_CHECKING, Any, TextIO

from sdbox.cli import naming
from sdbox.cli.parser import layout, opened
from sdbox.cli.talk import complain
from sdbox.errors import SdboxError
from sdbox.messages import one_line

if TYPE_CHECKING:
    import argparse

    from sdbox.management.jobs import Jobs, JobStatus

# As timeout(1) has it.
_TIMED_OUT = 124
_EPILOG = """\
Exit status: that of the job, or 128 and the number of the signal that ended it; of several jobs,
that of the first, in the order of the names, which did not end with 0. 4 if there is no such job,
124 after --timeout, 125 if nobody has left word of how a job ended.
"""


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `wait` to the command line."""
    parser = verbs.add_parser(
        "wait",
        help="wait for jobs to end, and tell how they did",
        description="Waits for jobs to end, and prints a line for each that does.",
        epilog=_EPILOG,
        formatter_class=layout,
    )
    parser.set_defaults(run=run)
    naming.add_jobs(parser)
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="how long to wait; for ever if not said"
    )
    parser.add_argument("--json", action="store_true", help="print reports, a line of JSON each")
    parser.add_argument(
        "--report", metavar="FILE", help="write the report of the job, as `sdbox run` does"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing")


def run(arguments: argparse.Namespace) -> int:
    """Wait, and return the exit status."""
    # This verb may go on for days, and holds a cgroup open for each of its jobs.
    gc.enable()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return naming.run(_wait(arguments))


async def _wait(arguments: argparse.Namespace) -> int:
    from sdbox import loop
    from sdbox.errors import TimedOut
    from sdbox.management.jobs import Jobs

    async with Jobs(manager=arguments.manager) as jobs:
        found, status = await naming.find(jobs, arguments.jobs)
        report = _report(arguments.report, len(found))
        waits = [_end(jobs, job, arguments, report) for job in found]
        if arguments.timeout is None:
            ends = await loop.gather(*waits)
        else:
            try:
                async with loop.within(arguments.timeout, "waiting"):
                    ends = await loop.gather(*waits)
            except TimedOut as error:
                complain(str(error))
                return _TIMED_OUT
    return next((end for end in ends if end), status)


def _report(path: str | None, jobs: int) -> TextIO | None:
    if path is not None and jobs > 1:
        raise SdboxError("--report: it is of one job", hint="Name one, or use --json")
    return opened("--report", path if jobs else None)


async def _end(
    jobs: Jobs, job: JobStatus, arguments: argparse.Namespace, file: TextIO | None
) -> int:
    """Wait for one job, tell how it ended, and return its exit status."""
    import json

    report = await jobs.wait(job)
    if file is not None and report is not None:
        with file:
            json.dump(report, file, indent=2)
            file.write("\n")
    if report is None:
        complain(f"{job.unit}: it has ended, and nobody has left word how")
    if arguments.json:
        print(json.dumps(report or {"job": job.job, "unit": job.unit}), flush=True)
    elif report is not None and not arguments.quiet:
        print(f"{job.job}: {one_line(report['message'])}", flush=True)
    return _status(report)


def _status(report: dict[str, Any] | None) -> int:
    if report is None:
        return SdboxError.exit_status
    if report["signal"] is not None:
        return 128 + int(report["signal"])
    return SdboxError.exit_status if report["exit_code"] is None else int(report["exit_code"])
