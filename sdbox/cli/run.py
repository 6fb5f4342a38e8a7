"""`sdbox run`: what its command line says, and the plan that this comes down to."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, TextIO

from sdbox.box import Box
from sdbox.cli.parser import Parser, layout
from sdbox.cli.talk import complain
from sdbox.directives import DIRECTIVES, OPTIONS
from sdbox.errors import SdboxError
from sdbox.host import CHOICES
from sdbox.planner import new_id
from sdbox.planning import caller, plan_for
from sdbox.record import record
from sdbox.spec import hides

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from sdbox.directives import Directive, Option
    from sdbox.helper import Streams
    from sdbox.host import Host
    from sdbox.plan import Plan
    from sdbox.properties import UnitType

_INHERIT = "inherit"

_EPILOG = """\
-p takes every directive, with the value syntax of systemd.resource-control(5) and
systemd.exec(5):
{directives}

Exit status: the payload's; if it was ended by a signal, sdbox ends by the same signal.
125 if sdbox failed, 126 if the command can't be executed, 127 if it is not there.
"""


def add_parser(verbs: argparse._SubParsersAction[Any]) -> None:
    """Add `run` to the command line: the options follow from the table of directives."""
    parser: Parser = verbs.add_parser(
        "run",
        help="run a command in a box",
        usage="sdbox run [OPTION...] [--] COMMAND [ARGUMENT...]",
        description="Runs a command in a box of its own: a transient systemd scope.",
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.make_epilog = _epilog
    parser.set_defaults(assignments=[])
    parser.add_argument(
        "-p", "--property", action=_Assign, metavar="NAME=VALUE", help="set any directive"
    )
    sections: dict[str, argparse._ArgumentGroup] = {}
    for directive in DIRECTIVES.values():
        if directive.section not in sections:
            sections[directive.section] = parser.add_argument_group(directive.section)
        if directive.option is not None:
            _add_option(sections[directive.section], directive, directive.option)
    job = parser.add_argument_group("Job")
    job.add_argument("--box", metavar="NAME", help="a box from the configuration")
    job.add_argument("--config", metavar="FILE", help="instead of /etc/sdbox/sdbox.toml")
    job.add_argument("--id", metavar="ID", help="its id; the unit is sdbox-ID.scope, or .service")
    job.add_argument(
        "--service",
        dest="unit_type",
        action="store_const",
        const="service",
        default="scope",
        help="have systemd start it, as a service, instead of this process",
    )
    job.add_argument(
        "--detach",
        action="store_true",
        help="start it as a service, print its id and go; `sdbox wait` tells how it ended",
    )
    job.add_argument(
        "--output",
        metavar="WHERE",
        help="stdout and stderr: inherit (default), null, journal (with --detach the default),"
        " append:FILE, or a FILE, which is emptied",
    )
    job.add_argument(
        "--report", metavar="FILE", help="write how it ended and what it used, as JSON"
    )
    job.add_argument(
        "--record", metavar="FILE", help="write its usage over time, as JSON lines for sdbox plot"
    )
    job.add_argument(
        "--manager", choices=CHOICES, default="auto", help="the systemd to ask (default: auto)"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _add_option(section: argparse._ArgumentGroup, directive: Directive, option: Option) -> None:
    section.add_argument(
        option.flag,
        action=_Assign,
        nargs=0 if option.constant is not None else None,
        const=option.constant,
        metavar=option.metavar or directive.syntax.word,
        help=f"{directive.help} ({directive.name})".replace("%", "%%"),
    )


def _epilog() -> str:
    import textwrap

    names = textwrap.wrap(", ".join(DIRECTIVES) + ".", 76)
    return _EPILOG.format(directives=textwrap.indent("\n".join(names), "  "))


class _Assign(argparse.Action):
    """Keeps options that set a directive in their order: later ones win, or add up."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        raw = self.const if self.nargs == 0 else values
        namespace.assignments = [*namespace.assignments, (option_string, raw)]


@record
class Prepared:
    """What the command line comes down to: the plan, and files that are open to be written.

    `streams` are the job's stdin, stdout and stderr; `to_journal` are those that lead there.
    """

    plan: Plan
    detached: bool
    streams: Streams
    to_journal: tuple[socket.socket, ...]
    report: TextIO | None
    record: TextIO | None


def check(arguments: argparse.Namespace) -> None:
    """Raise SdboxError for what is wrong on any host."""
    _box(arguments)
    if arguments.output is not None:
        from sdbox.output import parse

        parse(arguments.output)


def prepare(
    arguments: argparse.Namespace, host: Host, journal: str, ignored_signals: Sequence[int]
) -> Prepared:
    """Return what a launch will take. Starts nothing. Raises SdboxError.

    By a process that the journal, with its sockets in that directory, can see.
    """
    box = _box(arguments)
    unit_type: UnitType = "service" if arguments.detach else arguments.unit_type
    me = caller(_inherited_environment(), ignored_signals, unit_type=unit_type)
    plan = plan_for(
        host,
        _command(arguments.command),
        box,
        job=new_id() if arguments.id is None else arguments.id,
        caller=me,
        unit_type=unit_type,
    )
    # Before the job starts, so that a path that can't be is told in time.
    report = _opened("--report", arguments.report)
    series = _opened("--record", arguments.record)
    where = arguments.output
    if where is None:
        where = "journal" if arguments.detach else _INHERIT
    streams, to_journal = _output(where, journal, plan)
    _tell_what_is_watched(plan)
    _tell_where_it_starts(box, me.working_directory)
    return Prepared(
        plan=plan,
        detached=arguments.detach,
        streams=streams,
        to_journal=to_journal,
        report=report,
        record=series,
    )


def _output(where: str, journal: str, plan: Plan) -> tuple[Streams, tuple[socket.socket, ...]]:
    if where == _INHERIT:
        return (0, 1, 2), ()
    from sdbox.output import Outlets, opened, parse

    outlets = opened(parse(where), journal, plan, Outlets(stdout=1, stderr=2))
    return (0, outlets.stdout, outlets.stderr), outlets.to_journal


def _tell_what_is_watched(plan: Plan) -> None:
    names = [name for name in plan.watched if DIRECTIVES[name].controller is not None]
    if names:
        complain(
            f"{', '.join(names)}: kept by watching, which is weaker than the kernel;"
            " `sdbox doctor` tells why"
        )


def _tell_where_it_starts(box: Box, inherited: str) -> None:
    directives = box.directives
    if "WorkingDirectory" in directives or "RootDirectory" in directives:
        return
    if not inherited:
        complain("the working directory has been removed: the job starts in /")
    elif hides(directives, inherited):
        complain(f"{inherited} is hidden by the private /tmp: the job starts in /")


def _inherited_environment() -> dict[bytes, bytes]:
    """Return the environment as exec passed it: Python adds LC_CTYPE to its own (PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return dict(os.environb)
    environment: dict[bytes, bytes] = {}
    for variable in variables:
        name, equals, value = variable.partition(b"=")
        if name and equals:
            # Of two of one name getenv(3) finds the first.
            environment.setdefault(name, value)
    return environment


def _box(arguments: argparse.Namespace) -> Box:
    """Return the box that configuration and command line describe, the latter on top."""
    from sdbox import config

    configuration = config.load(arguments.config)
    box = configuration.defaults
    if arguments.box is not None:
        box = box.merge(configuration.box(arguments.box))
    for flag, raw in arguments.assignments:
        box = box.merge(_assigned(flag, raw))
    return box


def _assigned(flag: str, raw: str) -> Box:
    if flag in OPTIONS:
        return Box.from_option(flag, raw, os.environ)
    return Box.from_assignment(raw)


def _command(words: Sequence[str]) -> Sequence[str]:
    return words[1:] if words[:1] == ["--"] else words


def _opened(option: str, path: str | None) -> TextIO | None:
    if path is None:
        return None
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise SdboxError(
            f"{option}: {path!r}: {error.strerror}", hint="Name a file that can be written"
        ) from None
