"""What a plan needs of this process and this host: the caller's state, the users' database."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdbox.errors import InvalidDirective
from sdbox.planner import Caller, make_plan
from sdbox.users import look_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdbox.box import Box
    from sdbox.host import Host
    from sdbox.plan import Plan

Command = Sequence[str | bytes | os.PathLike[str]]


def caller(
    environment: Mapping[bytes, bytes] = os.environb, ignored_signals: Sequence[int] = ()
) -> Caller:
    """Return what a job takes over from this process, or is to take for that."""
    try:
        directory = os.getcwd()
    except FileNotFoundError:
        # It has been removed. chdir(2) takes an empty path for one that is not there.
        directory = ""
    return Caller(
        environment=dict(environment),
        working_directory=directory,
        home=_home(environment),
        oom_score_adjust=_oom_score_adjust(),
        ignored_signals=tuple(ignored_signals),
    )


def _home(environment: Mapping[bytes, bytes]) -> str:
    if b"HOME" in environment:
        return os.fsdecode(environment[b"HOME"])
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def _oom_score_adjust() -> int:
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        return int(file.read())


def plan_for(host: Host, command: Command, box: Box, *, job: str, caller: Caller) -> Plan:
    """Return what launching a command in a box will take. Starts nothing.

    Raises Unenforceable and InvalidDirective.
    """
    words = [os.fsdecode(word) for word in command]
    if not words or not words[0]:
        raise InvalidDirective("There is no command to run", hint="Give one, after --")
    if any("\0" in word for word in words):
        raise InvalidDirective("The command has a NUL byte in it", hint="No program can take it")
    credentials = look_up(box.directives.get("User"), box.directives.get("Group"))
    return make_plan(
        job=job,
        command=words,
        box=box,
        host=host,
        credentials=credentials,
        caller=caller,
    )


def encoded(environment: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return an environment in the bytes that execve(2) takes."""
    return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
