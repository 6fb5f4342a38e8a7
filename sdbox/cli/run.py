"""`sdbox run`: what its command line says, and the plan that this comes down to."""

from __future__ import annotations

import argparse
import os

from sdbox.box import Box
from sdbox.cli.parser import Parser, bare, layout, opened
from sdbox.cli.talk import complain
from sdbox.directives import DIRECTIVES, OPTIONS
from sdbox.errors import InvalidDirective
from sdbox.host.facts import host_of
from sdbox.launch.planning import assigned, caller, held, plan_for, project_for
from sdbox.plan.planner import new_id
from sdbox.plan.protection import hides_home
from sdbox.plan.scratch import hides
from sdbox.record import record
from sdbox.syntax.common import SPAN
from sdbox.systemd.endpoint import CHOICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any, TextIO

    from sdbox.cpus.assignment import Claim
    from sdbox.directives import Directive, Option
    from sdbox.host import projects
    from sdbox.launch.helper import Streams
    from sdbox.plan import Plan
    from sdbox.plan.planner import Caller
    from sdbox.properties import UnitType
    from sdbox.systemd.endpoint import Endpoint

_INHERIT = "inherit"

_EPILOG = """\
-p takes every directive, with the value syntax of systemd.resource-control(5) and
systemd.exec(5):
{directives}

Exit status: the payload's; if it was ended by a signal, sdbox ends by the same signal.
125 if sdbox failed, 126 if the command can't be executed, 127 if it is not there.
"""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the words behind `run`, with as little of a parser as they need."""
    parser, verbs = bare()
    add_parser(verbs, words)
    return parser.parse_args(["run", *words])


def add_parser(verbs: argparse._SubParsersAction[Any], words: Sequence[str] | None = None) -> None:
    """Add `run` to the command line: the options follow from the table of directives.

    Where the `words` that will be parsed are known, those that are not said are left out: to make
    them all takes longer than to parse.
    """
    parser: Parser = verbs.add_parser(
        "run",
        help="run a command in a box",
        usage="sdbox run [OPTION...] [--] COMMAND [ARGUMENT...]",
        description="Runs a command in a box of its own: a transient systemd scope, or service.",
        formatter_class=layout,
        allow_abbrev=False,
    )
    parser.make_epilog = _epilog
    parser.set_defaults(assignments=[])
    parser.add_argument(
        "-p", "--property", action=_Assign, metavar="NAME=VALUE", help="set any directive"
    )
    sections: dict[str, argparse._ArgumentGroup] = {}
    said = OPTIONS if words is None or _asks_for_help(words) else _flags(words)
    for directive in DIRECTIVES.values():
        option = directive.option
        if option is None or option.flag not in said:
            continue
        if directive.section not in sections:
            sections[directive.section] = parser.add_argument_group(directive.section)
        _add_option(sections[directive.section], directive, option)
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
        "--wait-cpus",
        metavar="TIME",
        help="how long to wait for the CPUs that --cpus asks for, where other jobs have them",
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


def _asks_for_help(words: Sequence[str]) -> bool:
    return any(word == "--help" or word.startswith("-h") for word in words)


def _flags(words: Sequence[str]) -> set[str]:
    return {word.partition("=")[0] for word in words}


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

    `streams` are the job's stdin, stdout and stderr; `to_journal` are those that lead there. `held`
    are descriptors that are to be open until nothing of the job runs.
    """

    plan: Plan
    detached: bool
    streams: Streams
    to_journal: tuple[socket.socket, ...]
    held: tuple[int, ...]
    report: TextIO | None
    record: TextIO | None


def check(arguments: argparse.Namespace) -> None:
    """Raise SdboxError for what is wrong on any host."""
    box = _box(arguments)
    if arguments.wait_cpus is not None:
        _wait_seconds(arguments.wait_cpus, box)
    if arguments.output is not None:
        from sdbox.journal.output import parse

        parse(arguments.output)


def wait_for_cpus(arguments: argparse.Namespace, endpoint: Endpoint) -> Claim | None:
    """Return the CPUs for the job when there are enough. Raises SdboxError.

    What is not going to start is told before.
    """
    box = _box(arguments)
    seconds = _wait_seconds(arguments.wait_cpus, box)
    # Any will do for that.
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    _plan(arguments, endpoint, box, caller(), cpus)
    return _claimed(endpoint, box, seconds)


def _claimed(endpoint: Endpoint, box: Box, seconds: float) -> Claim | None:
    from sdbox import loop

    return loop.run(assigned(endpoint, box, seconds=seconds))


def _wait_seconds(text: str, box: Box) -> float:
    seconds = SPAN.read(text, "--wait-cpus").seconds
    if "AssignedCPUs" not in box.directives:
        raise InvalidDirective("--wait-cpus: there is nothing to wait for", hint="Add --cpus")
    return float(seconds)


def prepare(
    arguments: argparse.Namespace,
    endpoint: Endpoint,
    ignored_signals: Sequence[int],
    claim: Claim | None = None,
) -> Prepared:
    """Return what a launch will take. Starts nothing. Raises SdboxError.

    By a process that the journal can see. `claim` is what wait_for_cpus() has returned.
    """
    box = _box(arguments)
    if claim is None and "AssignedCPUs" in box.directives:
        claim = _claimed(endpoint, box, 0.0)
    me = caller(_inherited_environment(), ignored_signals, unit_type=_unit_type(arguments))
    project = project_for(endpoint, box)
    plan = _plan(arguments, endpoint, box, me, claim.cpus if claim else None, project)
    if claim is not None:
        claim.sign(plan, endpoint.cgroup_root)
    # Before the job starts, so that a path that can't be is told in time.
    report = opened("--report", arguments.report)
    series = opened("--record", arguments.record)
    where = arguments.output
    if where is None:
        where = "journal" if arguments.detach else _INHERIT
    streams, to_journal = _output(where, endpoint.journal, plan)
    _tell_what_is_weak(plan)
    _tell_where_it_starts(box, me.working_directory)
    return Prepared(
        plan=plan,
        detached=arguments.detach,
        streams=streams,
        to_journal=to_journal,
        held=held(claim, project),
        report=report,
        record=series,
    )


def _unit_type(arguments: argparse.Namespace) -> UnitType:
    return "service" if arguments.detach else arguments.unit_type


def _plan(
    arguments: argparse.Namespace,
    endpoint: Endpoint,
    box: Box,
    me: Caller,
    cpus: tuple[int, ...] | None,
    project: projects.Claim | None = None,
) -> Plan:
    return plan_for(
        host_of(endpoint),
        _command(arguments.command),
        box,
        job=new_id() if arguments.id is None else arguments.id,
        caller=me,
        unit_type=_unit_type(arguments),
        cpus=cpus,
        project=project.project if project else None,
        configuration=arguments.config,
    )


def _output(where: str, journal: str, plan: Plan) -> tuple[Streams, tuple[socket.socket, ...]]:
    if where == _INHERIT:
        return (0, 1, 2), ()
    from sdbox.journal import output

    inherited = output.Outlets(stdout=1, stderr=2)
    outlets = output.opened(output.parse(where), journal, plan, inherited)
    return (0, outlets.stdout, outlets.stderr), outlets.to_journal


_WEAK = {
    "watch": "kept by watching, which is weaker than the kernel",
    "affinity": "kept by affinity, which the job itself can change",
}


def _tell_what_is_weak(plan: Plan) -> None:
    for how, text in _WEAK.items():
        names = [
            name
            for name, kept_by in plan.enforcement.items()
            if kept_by == how and DIRECTIVES[name].controller is not None
        ]
        if names:
            complain(f"{', '.join(names)}: {text}; `sdbox doctor` tells why")


def _tell_where_it_starts(box: Box, inherited: str) -> None:
    directives = box.directives
    if "WorkingDirectory" in directives or "RootDirectory" in directives:
        return
    if not inherited:
        complain("the working directory has been removed: the job starts in /")
    elif hides(directives, inherited):
        complain(f"{inherited} is hidden {_by_what(box, inherited)}: the job starts in /")


def _by_what(box: Box, directory: str) -> str:
    return (
        "by ProtectHome"
        if hides_home(box.directives, directory)
        else "by the box's own directories"
    )


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
