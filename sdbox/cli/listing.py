"""`sdbox list|show|usage`: the jobs that there are, and what they use."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sdbox.cli import naming, table
from sdbox.cli.parser import layout
from sdbox.messages import one_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from sdbox.management.jobs import Jobs, JobStatus
    from sdbox.management.memo import Memo
    from sdbox.management.verbs import Figures

_COLUMNS = ("JOB", "STATE", "AGE", "MEMORY", "CPU", "TASKS", "COMMAND")
_USAGE_COLUMNS = ("JOB", "STATE", "MEMORY", "CPU", "TASKS", "READ", "WRITTEN", "COMMAND")


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add the verbs to the command line."""
    listing = verbs.add_parser(
        "list",
        aliases=["ps"],
        help="list the jobs that there are",
        description="Lists the jobs that there are, whoever started them.",
        epilog="Memory is what the kernel counts: - where it does not, and `sdbox usage` measures.",
        formatter_class=layout,
    )
    listing.set_defaults(run=list_jobs)
    naming.add_jobs(listing, needed=False)
    listing.add_argument("--no-legend", action="store_true", help="no header, on a terminal too")
    show = verbs.add_parser(
        "show",
        help="tell all that is known of jobs",
        description="Tells all that is known of jobs: state, box, owner, command, usage.",
        epilog="Exit status: 4 if there is no such job.",
        formatter_class=layout,
    )
    show.set_defaults(run=show_jobs)
    naming.add_jobs(show)
    usage = verbs.add_parser(
        "usage",
        help="tell what jobs use, and have used so far",
        description="Tells what jobs use, and have used so far. `top` goes on telling.",
        epilog="Exit status: 4 if there is no such job.",
        formatter_class=layout,
    )
    usage.set_defaults(run=show_usage)
    naming.add_jobs(usage, needed=False)
    usage.add_argument("--no-legend", action="store_true", help="no header, on a terminal too")
    for parser in (listing, show, usage):
        parser.add_argument("--json", action="store_true", help="print JSON: an array of objects")


def list_jobs(arguments: argparse.Namespace) -> int:
    """List, and return the exit status."""
    return naming.run(_list(arguments))


async def _list(arguments: argparse.Namespace) -> int:
    from sdbox.management.jobs import Jobs

    async with Jobs(manager=arguments.manager) as jobs:
        found, status = await naming.find(jobs, arguments.jobs)
    if arguments.json:
        _print_json([job.to_json() for job in found])
    else:
        now = time.time()
        table.print_table(_COLUMNS, [_row(job, now) for job in found], legend=_legend(arguments))
    return status


def _legend(arguments: argparse.Namespace) -> bool:
    return not arguments.no_legend


def _row(job: JobStatus, now: float) -> tuple[str, ...]:
    started = None if job.memo is None else now - job.memo.started_at
    return (
        job.job,
        job.state,
        table.span(started),
        table.size(job.memory_bytes),
        table.seconds(job.cpu_seconds),
        table.count(job.tasks),
        command_of(job),
    )


def command_of(job: JobStatus) -> str:
    """Return the command of a job for people, or what systemd has to say of it."""
    return one_line(job.description) if job.memo is None else table.command_line(job.memo.command)


def show_jobs(arguments: argparse.Namespace) -> int:
    """Show, and return the exit status."""
    return naming.run(_show(arguments))


async def _show(arguments: argparse.Namespace) -> int:
    from sdbox.management.jobs import Jobs

    async with Jobs(manager=arguments.manager) as jobs:
        found, status = await naming.find(jobs, arguments.jobs)
        known = [(job, await _figures(jobs, job)) for job in found]
        version = jobs.systemd_version
    if arguments.json:
        _print_json([_document(job, used, version) for job, used in known])
    else:
        blocks = ["\n".join(_paragraph(job, used, version)) for job, used in known]
        print("\n\n".join(blocks), end="\n" if blocks else "")
    return status


async def _figures(jobs: Jobs, job: JobStatus) -> Figures | None:
    """Return what a job uses; None where it has ended since it was found."""
    from sdbox.errors import NoSuchJob

    try:
        return await jobs.usage(job)
    except NoSuchJob:
        return None


def _document(job: JobStatus, used: Figures | None, version: int | None) -> dict[str, Any]:
    usage = None if used is None else used.to_json()
    return {**job.to_json(), "systemd_version": version, "usage": usage}


def _paragraph(job: JobStatus, used: Figures | None, version: int | None) -> Iterator[str]:
    """Lay out one job as systemctl status does."""
    yield f"{job.unit} - {one_line(job.description)}"
    last = ""
    for name, text in _facts(job, used, version):
        yield f"{'':14}{text}" if name == last else f"{name:>12}: {text}"
        last = name


def _facts(job: JobStatus, used: Figures | None, version: int | None) -> Iterator[tuple[str, str]]:
    yield "Job", job.job
    yield (
        "State",
        f"{table.painted(job.state)} ({one_line(f'{job.active_state}, {job.sub_state}')})",
    )
    if job.freezer_state not in (None, "running"):
        yield "Freezer", f"{job.freezer_state}{_frozen_by(job)}"
    yield "Manager", f"{job.manager}, systemd {version}"
    yield "Cgroup", one_line(job.cgroup or table.UNKNOWN)
    if job.memo is not None:
        yield from _remembered(job.memo)
    if used is not None:
        yield from _used(used)


def _frozen_by(job: JobStatus) -> str:
    return f", by its slice {job.frozen_by}" if job.frozen_by else ""


def _remembered(memo: Memo) -> Iterator[tuple[str, str]]:
    from sdbox.host.users import user_name

    yield "Owner", f"{user_name(memo.owner)} ({memo.owner})"
    if memo.supervisor is not None:
        alive = {True: "", False: ", has ended", None: ", in another PID namespace"}
        yield "Supervisor", f"PID {memo.supervisor.pid}{alive[memo.supervisor.alive()]}"
    since = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(memo.started_at))
    yield "Started", f"{since}; {table.span(time.time() - memo.started_at)} ago"
    yield "Command", table.command_line(memo.command)
    for name, value in (memo.box or {}).items():
        for item in [value] if isinstance(value, str) else value:
            yield "Box", one_line(f"{name}={item}")


def _used(used: Figures) -> Iterator[tuple[str, str]]:
    usage = used.used
    yield "Tasks", f"{table.count(used.tasks)}{_peak(table.count(usage.tasks_peak))}"
    peak = _peak(table.size(usage.memory_cgroup_peak_bytes), ", page cache included")
    yield "Memory", f"{table.size(used.memory_bytes)}{peak}"
    user, system = table.seconds(usage.cpu_user_seconds), table.seconds(usage.cpu_system_seconds)
    yield "CPU", f"{user} user, {system} system"
    if usage.io_read_bytes is not None:
        read, written = table.size(usage.io_read_bytes), table.size(usage.io_write_bytes)
        yield "I/O", f"{read} read, {written} written"


def _peak(text: str, more: str = "") -> str:
    return "" if text == table.UNKNOWN else f" (peak {text}{more})"


def show_usage(arguments: argparse.Namespace) -> int:
    """Tell what is used, and return the exit status."""
    return naming.run(_usage(arguments))


async def _usage(arguments: argparse.Namespace) -> int:
    from sdbox.management.jobs import Jobs

    async with Jobs(manager=arguments.manager) as jobs:
        found, status = await naming.find(jobs, arguments.jobs)
        pairs = [(job, await _figures(jobs, job)) for job in found]
    known = [(job, used) for job, used in pairs if used is not None]
    if arguments.json:
        _print_json([{"job": job.job, "unit": job.unit, **used.to_json()} for job, used in known])
    else:
        rows = [_usage_row(job, used) for job, used in known]
        table.print_table(_USAGE_COLUMNS, rows, legend=_legend(arguments))
    return status


def _usage_row(job: JobStatus, used: Figures) -> tuple[str, ...]:
    return (
        job.job,
        job.state,
        table.size(used.memory_bytes),
        table.seconds(cpu_seconds(used)),
        table.count(used.tasks),
        table.size(used.used.io_read_bytes),
        table.size(used.used.io_write_bytes),
        command_of(job),
    )


def cpu_seconds(used: Figures) -> float | None:
    """Return the CPU time of a job, user's and system's."""
    user, system = used.used.cpu_user_seconds, used.used.cpu_system_seconds
    return None if user is None or system is None else user + system


def _print_json(document: Any) -> None:
    import json

    print(json.dumps(document, indent=2))
