"""Directives about how it is started."""

from __future__ import annotations

from sdbox.directives import raw, translate
from sdbox.directives.row import Directive, Option
from sdbox.syntax import process as syntax
from sdbox.syntax.common import SPAN

_SECTION = "Process"

TABLE = (
    Directive(
        name="WorkingDirectory",
        syntax=syntax.DIRECTORY,
        section=_SECTION,
        help="where it starts; the caller's own directory if not said",
        option=Option(flag="--chdir"),
    ),
    Directive(
        name="User",
        syntax=syntax.ACCOUNT,
        section=_SECTION,
        help="the user it runs as, with all the user's groups",
        option=Option(flag="--user"),
    ),
    Directive(
        name="Group",
        syntax=syntax.ACCOUNT,
        section=_SECTION,
        help="the group it runs as, instead of the user's own",
        option=Option(flag="--group"),
    ),
    Directive(
        name="Environment",
        syntax=syntax.VARIABLES,
        section=_SECTION,
        help="a variable in its environment; NAME alone takes the caller's value",
        option=Option(flag="--env", metavar="NAME[=VALUE]", repeats=True, to_value=raw.variable),
        resets=("Environment",),
    ),
    Directive(
        name="KillSignal",
        syntax=syntax.SIGNAL,
        section=_SECTION,
        help="the signal that asks it to stop; SIGTERM if not said",
        option=Option(flag="--stop-signal"),
        unit=translate.unit_property("KillSignal", "i"),
        unmanaged=True,
    ),
    Directive(
        name="TimeoutStopSec",
        syntax=SPAN,
        section=_SECTION,
        help="how long it may take to stop before it is killed",
        option=Option(flag="--stop-timeout"),
        unit=translate.unit_number("TimeoutStopUSec"),
        unmanaged=True,
    ),
    *(
        Directive(name=f"Limit{name}", syntax=of, section=_SECTION, help=f"setrlimit(2): {what}")
        for name, of, what in (
            ("CPU", syntax.LIMIT_SECONDS, "CPU time of a process"),
            ("FSIZE", syntax.LIMIT_SIZE, "size of a file that it writes"),
            ("DATA", syntax.LIMIT_SIZE, "data segment of a process"),
            ("STACK", syntax.LIMIT_SIZE, "stack of a process"),
            ("CORE", syntax.LIMIT_SIZE, "size of a core dump"),
            ("RSS", syntax.LIMIT_SIZE, "resident memory; Linux ignores it"),
            ("NOFILE", syntax.LIMIT_NUMBER, "open files of a process"),
            ("AS", syntax.LIMIT_SIZE, "address space of a process"),
            ("NPROC", syntax.LIMIT_NUMBER, "processes of its user"),
            ("MEMLOCK", syntax.LIMIT_SIZE, "memory that a process locks"),
            ("LOCKS", syntax.LIMIT_NUMBER, "file locks; Linux ignores it"),
            ("SIGPENDING", syntax.LIMIT_NUMBER, "queued signals of its user"),
            ("MSGQUEUE", syntax.LIMIT_SIZE, "bytes in POSIX message queues of its user"),
            ("NICE", syntax.LIMIT_NICE, "the best nice value it may take"),
            ("RTPRIO", syntax.LIMIT_NUMBER, "the highest real-time priority it may take"),
            ("RTTIME", syntax.LIMIT_USEC, "real-time CPU time without a blocking call"),
        )
    ),
)
