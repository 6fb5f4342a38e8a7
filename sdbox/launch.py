"""The first half of one launch: from a box to an init that prepares itself. Needs no asyncio.

`sdbox run` goes through here before it imports what it takes to talk to systemd, so that init
has its namespaces and mounts ready by the time that its unit is.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from sdbox.errors import InvalidDirective
from sdbox.plan import Caller, Plan, make_plan
from sdbox.record import record
from sdbox.users import look_up

if TYPE_CHECKING:
    from sdbox.box import Box
    from sdbox.helper import Helper, Streams
    from sdbox.host import Host

Command = Sequence[str | bytes | os.PathLike[str]]


@record
class Launch:
    """A launch under way: init has been asked for. `report` is where it will speak.

    `key` is what it is called between supervisor and helper. `record` takes the samples of the
    job's usage, where they are wanted.
    """

    plan: Plan
    key: str
    report: socket.socket
    record: TextIO | None = None


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


def begin(helper: Helper, plan: Plan, streams: Streams, *, record: TextIO | None = None) -> Launch:
    """Ask for the init of a plan, which has these descriptors as its streams."""
    # Not the job's id alone, which a caller may give twice.
    key = f"{plan.job}/{os.urandom(6).hex()}"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    try:
        helper.send_launch(key, plan.spec, theirs, streams)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Launch(plan=plan, key=key, report=ours, record=record)


def encoded(environment: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return an environment in the bytes that execve(2) takes."""
    return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
