"""A detached job: its supervisor is not who asks for it, but a service of the manager's.

That is a unit beside the job's own, `sdbox.supervisor-ID.service`, whose process does what
`sdbox run` does for a job that it waits for: it keeps the limits that are watched, accounts for the
end, and cleans up. systemd is told to stop it after the job.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
import sys
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import LaunchFailed, ManagerRefused, SdboxError
from sdbox.init import wire
from sdbox.properties import UnitProperty
from sdbox.record import replaced, values_of
from sdbox.systemd.calls import UNIT_EXISTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdbox.launch.placing import Connection
    from sdbox.plan import Plan

# The supervisor has time-outs of its own for each step, which say more.
_START_SECONDS = 300.0

# At the end of the path: nothing of the caller's may stand for a module of the standard library.
# One expression: see `sdbox.launch.service`.
_PROGRAM = (
    "__import__('sys').path.extend({path!r})"
    " or __import__('sdbox.cli.detached', fromlist=['main']).main()"
)


def supervisor_unit(job: str) -> str:
    """Return the name of the unit in which a detached job's supervisor runs."""
    return f"sdbox.supervisor-{job}.service"


async def detach(connection: Connection, plan: Plan, files: Sequence[tuple[str, int]]) -> None:
    """Have a job started that goes on without this process; return when its payload runs.

    `files` are the descriptors that its supervisor gets, by name: see `sdbox.cli.detached`. They
    stay the caller's. Raises what a launch raises, as LaunchFailed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            _hand_over(ours, connection, plan, files)
            await _start(connection, plan, theirs.fileno())
        ours.setblocking(False)
        await _hear(connection, plan, ours)


def _hand_over(
    control: socket.socket, connection: Connection, plan: Plan, files: Sequence[tuple[str, int]]
) -> None:
    """Leave all that the supervisor needs in the socket, where it will find it."""
    document = {
        "plan": supervised(plan).to_plain() | {"spec": dict(plan.spec)},
        "endpoint": values_of(connection.endpoint.inside()),
    }
    memory = os.memfd_create("sdbox-plan", os.MFD_CLOEXEC)
    own = os.pidfd_open(os.getpid())
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    with open(memory, "wb") as file:
        marshal.dump(document, file)
        file.flush()
        given = [("plan", memory), ("caller", own), ("root", root), *files]
        names, fds = zip(*given, strict=True)
        wire.send(control, *names, fds=fds)
    wire.close([own, root])


async def _start(connection: Connection, plan: Plan, stdin: int) -> None:
    try:
        await connection.manager.start_service(
            supervisor_unit(plan.job),
            _properties(plan),
            command=[sys.executable, "-I", "-S", "-c", _PROGRAM.format(path=_path())],
            stdin=stdin,
        )
    except ManagerRefused as error:
        if error.name != UNIT_EXISTS:
            raise
        raise ManagerRefused(
            f"{plan.job}: there is a job of that id", name=error.name, hint="Choose another id"
        ) from None


def _path() -> list[str]:
    """Where this process finds its modules, wherever another is."""
    return [os.path.abspath(place) for place in sys.path if place]


def supervised(plan: Plan) -> Plan:
    """Return the plan with the job bound to its supervisor.

    What starts after another stops before it: the machine's shutdown ends the job first. Not said
    by the supervisor's unit, since systemd keeps every unit that a running one names.
    """
    after = UnitProperty(name="After", signature="as", value=[supervisor_unit(plan.job)])
    return replaced(plan, properties=(*plan.properties, after))


def _properties(plan: Plan) -> tuple[UnitProperty, ...]:
    return (
        UnitProperty(name="Description", signature="s", value=f"Supervisor of {plan.unit}"),
        UnitProperty(name="Type", signature="s", value="exec"),
        # Without it the job has nobody: the kernel is to take others first.
        UnitProperty(name="OOMScoreAdjust", signature="i", value=-900),
        UnitProperty(name="StandardOutput", signature="s", value="null"),
        UnitProperty(name="StandardError", signature="s", value="journal"),
        UnitProperty(name="SyslogIdentifier", signature="s", value="sdbox"),
    )


async def _hear(connection: Connection, plan: Plan, control: socket.socket) -> None:
    """Wait until the supervisor says that the payload runs, or why it does not."""
    unit = supervisor_unit(plan.job)
    try:
        async with loop.within(_START_SECONDS, f"starting {plan.unit}"):
            await loop.readable(control.fileno())
    except BaseException:
        with contextlib.suppress(SdboxError):
            await loop.shield(connection.manager.stop(unit))
        raise
    fields, fds = wire.receive(control)
    wire.close(fds)
    if not fields:
        raise LaunchFailed(f"{unit} has ended without a word", hint=f"See `journalctl -u {unit}`")
    if fields[0] == b"failed":
        message, hint, status = fields[1:]
        raise LaunchFailed(os.fsdecode(message), hint=os.fsdecode(hint), exit_status=int(status))
