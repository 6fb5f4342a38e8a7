"""`sdbox run`: one job, from the command line to the same end as the payload's."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from sdbox import verdict
from sdbox.box import Box
from sdbox.cli import streams
from sdbox.cli.parser import Parser, layout
from sdbox.cli.signals import Signals, end_by
from sdbox.cli.talk import complain
from sdbox.directives import DIRECTIVES, OPTIONS
from sdbox.errors import SdboxError
from sdbox.helper import Helper
from sdbox.host import CHOICES, host_of, locate
from sdbox.launch import begin, caller, plan_for
from sdbox.plan import new_id
from sdbox.spec import hides

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdbox.directives import Directive, Option
    from sdbox.plan import Plan
    from sdbox.result import Result

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
    parser.set_defaults(run=run, assignments=[])
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
    job.add_argument("--id", metavar="ID", help="its id; the unit is sdbox-ID.scope")
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


def run(arguments: argparse.Namespace) -> int:
    """Run the job; return its exit status, or end by its signal."""
    streams.fill_standard()
    signals = Signals()
    box = _box(arguments)
    with (
        _opened("--report", arguments.report) as report,
        _opened("--record", arguments.record) as record,
        streams.terminal_kept() as foreground,
    ):
        endpoint = locate(arguments.manager, notice=complain)
        me = caller(_inherited_environment(), signals.ignored)
        plan = plan_for(
            host_of(endpoint),
            _command(arguments.command),
            box,
            job=new_id() if arguments.id is None else arguments.id,
            caller=me,
        )
        _tell_what_is_watched(plan)
        _tell_where_it_starts(plan, me.working_directory)
        helper = Helper.fork(pid_namespace=endpoint.pid_namespace, cgroup=endpoint.launch_cgroup)
        launch = begin(helper, plan, (0, 1, 2), record=record)
        # From here on init prepares itself, while this process imports what talks to systemd.
        # That is asyncio for the most part, and a sixth of it is TLS, which D-Bus has no use for.
        sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
        from sdbox.cli.supervise import supervise

        try:
            result = supervise(
                launch,
                endpoint=endpoint,
                helper=helper,
                signals=signals,
                stops=foreground,
            )
        except SdboxError as error:
            _write(report, verdict.launch_failed(plan, time.time(), str(error)))
            raise
        _write(report, result)
    return _end(result)


def _tell_what_is_watched(plan: Plan) -> None:
    names = [name for name in plan.watched if DIRECTIVES[name].controller is not None]
    if names:
        complain(
            f"{', '.join(names)}: kept by watching, which is weaker than the kernel;"
            " `sdbox doctor` tells why"
        )


def _tell_where_it_starts(plan: Plan, inherited: str) -> None:
    directives = plan.box.directives
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


@contextlib.contextmanager
def _opened(option: str, path: str | None) -> Iterator[TextIO | None]:
    """Open a file to write before the job starts, so that a path that can't be is told in time."""
    if path is None:
        yield None
        return
    try:
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise SdboxError(
            f"{option}: {path!r}: {error.strerror}", hint="Name a file that can be written"
        ) from None
    try:
        yield file
    finally:
        # What could not be written has been told already, and is not to be tried again.
        with contextlib.suppress(OSError):
            file.close()


def _write(report: TextIO | None, result: Result) -> None:
    if report is None:
        return
    import json

    try:
        json.dump(result.to_json(), report, indent=2)
        report.write("\n")
        report.flush()
    except OSError as error:
        # The job is done, and its status is what the caller needs most.
        complain(f"--report: {report.name!r}: {error.strerror}")


def _end(result: Result) -> int:
    if result.reason not in ("exited", "signal"):
        complain(result.message)
    if result.signal is not None:
        end_by(result.signal)
    return result.exit_code or 0
