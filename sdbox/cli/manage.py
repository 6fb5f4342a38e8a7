"""`sdbox freeze|thaw|kill|stop|set-property`: what is done to running jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdbox.cli import naming
from sdbox.cli.parser import layout
from sdbox.management.verbs import FREEZE_SECONDS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from sdbox.box import Box
    from sdbox.management.jobs import Jobs, JobStatus

_STATUS = "Exit status: 0 if it was done to all, 4 if there is no such job, else 125."


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add the verbs to the command line."""
    _add_freezer(verbs, "freeze", _freeze, "stop jobs where they are; `thaw` lets them go on")
    _add_freezer(verbs, "thaw", _thaw, "let frozen jobs go on")
    _add_kill(verbs)
    stop = _add(verbs, "stop", _stop, "ask jobs to end, and kill what does not in time")
    naming.add_jobs(stop)
    _add_set_property(verbs)


def _add(
    verbs: argparse._SubParsersAction[Any],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str = _STATUS,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=layout,
    )
    parser.set_defaults(run=run)
    return parser


def _add_freezer(
    verbs: argparse._SubParsersAction[Any],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> None:
    parser = _add(verbs, name, run, text)
    naming.add_jobs(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        default=FREEZE_SECONDS,
        metavar="SECONDS",
        help=f"how long to wait for it to be so (default: {FREEZE_SECONDS:g})",
    )


def _add_kill(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = _add(verbs, "kill", _kill, "kill jobs, so that nothing of them gets away")
    naming.add_jobs(parser)
    parser.add_argument(
        "-s",
        "--signal",
        metavar="SIGNAL",
        help="send this signal to all processes of the jobs instead, such as TERM or USR1",
    )


def _add_set_property(verbs: argparse._SubParsersAction[Any]) -> None:
    text = "change the box of a running job"
    parser = _add(verbs, "set-property", _set_property, text)
    parser.usage = "sdbox set-property [--manager MANAGER] JOB DIRECTIVE=VALUE..."
    parser.make_epilog = _changeable  # type: ignore[attr-defined]
    parser.add_argument("jobs", nargs=1, metavar="JOB", help=naming.PATTERN_HELP)
    parser.add_argument(
        "assignments", nargs="+", metavar="DIRECTIVE=VALUE", help="in systemd's own syntax"
    )
    naming.add_manager(parser)


def _changeable() -> str:
    import textwrap

    from sdbox.management.change import changeable

    names = textwrap.indent(textwrap.fill(", ".join(changeable()) + ".", 76), "  ")
    return f"{_STATUS}\n\nDirectives that can be changed while a job runs:\n{names}"


def _freeze(arguments: argparse.Namespace) -> int:
    return naming.run(
        naming.for_each(arguments, lambda jobs, job: jobs.freeze(job, timeout=arguments.timeout))
    )


def _thaw(arguments: argparse.Namespace) -> int:
    return naming.run(
        naming.for_each(arguments, lambda jobs, job: jobs.thaw(job, timeout=arguments.timeout))
    )


def _kill(arguments: argparse.Namespace) -> int:
    from sdbox.syntax.process import SIGNAL

    number = None if arguments.signal is None else SIGNAL.read(arguments.signal, "--signal")
    return naming.run(naming.for_each(arguments, lambda jobs, job: jobs.kill(job, signal=number)))


def _stop(arguments: argparse.Namespace) -> int:
    return naming.run(naming.for_each(arguments, lambda jobs, job: jobs.stop(job)))


def _set_property(arguments: argparse.Namespace) -> int:
    from sdbox.box import Box

    change = Box()
    for assignment in arguments.assignments:
        change = change.merge(Box.from_assignment(assignment))
    return naming.run(naming.for_each(arguments, _changing(change)))


def _changing(change: Box) -> Callable[[Jobs, JobStatus], Any]:
    return lambda jobs, job: jobs.set_property(job, change)
