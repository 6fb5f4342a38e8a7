"""`sdbox logs`: what the journal has of jobs, those that have ended too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sdbox import embedded
from sdbox.cli import naming
from sdbox.cli.parser import layout
from sdbox.errors import ManagerUnavailable, SdboxError
from sdbox.systemd.endpoint import booted

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

_EPILOG = """\
What is after -- goes to journalctl as it is. Exit status: journalctl's.
"""

# journalctl(1): whose unit a name is. An ordinary user may look at his own jobs or at root's, as a
# member of systemd-journal.
_WHOSE = {
    "system": ("--unit",),
    "embedded": ("--unit",),
    "user": ("--user-unit",),
    "any": ("--user-unit", "--unit"),
}


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `logs` to the command line."""
    parser = verbs.add_parser(
        "logs",
        help="show what the journal has of jobs, running or ended",
        description="Shows what the journal has of jobs, those that have ended too.",
        usage="sdbox logs [OPTION...] JOB... [-- JOURNALCTL-OPTION...]",
        epilog=_EPILOG,
        formatter_class=layout,
    )
    parser.set_defaults(run=run)
    naming.add_jobs(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on, with what comes")
    parser.add_argument("-n", "--lines", metavar="N", help="the last N entries only")
    parser.add_argument("-o", "--output", metavar="FORMAT", help="such as cat, verbose or json")
    parser.add_argument("-x", "--catalog", action="store_true", help="explain entries")


def run(arguments: argparse.Namespace) -> int:
    """Become journalctl, or wait for it where it has to run inside the embedded manager."""
    names, more = _split(arguments.jobs)
    choice = _choice(arguments.manager)
    units = [f"{option}={unit}" for option in _WHOSE[choice] for unit in _units(names)]
    command = ["journalctl", *_options(arguments), *units, *more]
    if choice != "embedded":
        return _become(command)
    manager = embedded.find()
    if manager is None:
        raise ManagerUnavailable(
            "The embedded manager is not running, and its journal went with it",
            hint="The next job boots it",
        )
    return os.waitstatus_to_exitcode(embedded.execute(manager, command))


def _choice(manager: str) -> str:
    if manager != "auto":
        return manager
    if not booted():
        return "embedded"
    return "system" if os.geteuid() == 0 else "any"


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Tell jobs from journalctl's options, the first of which starts with a dash."""
    first = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:first], words[first:]


def _options(arguments: argparse.Namespace) -> Iterator[str]:
    if not os.isatty(1):
        yield "--no-pager"
    if arguments.follow:
        yield "--follow"
    if arguments.catalog:
        yield "--catalog"
    if arguments.lines is not None:
        yield f"--lines={arguments.lines}"
    if arguments.output is not None:
        yield f"--output={arguments.output}"


def _units(names: list[str]) -> Iterator[str]:
    """Return units and patterns of them. Which type a job's was, only the journal may know."""
    from sdbox.management.groups import PREFIX, SUFFIXES, is_job

    for name in names:
        if is_job(name):
            yield name
        else:
            yield from (f"{PREFIX}{name}{suffix}" for suffix in SUFFIXES)


def _become(command: list[str]) -> int:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise SdboxError(f"journalctl: {error.strerror}", hint="It comes with systemd") from None
