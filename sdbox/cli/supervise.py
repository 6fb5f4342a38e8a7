"""The supervisor's part of `sdbox run`: all that needs an event loop and D-Bus."""

from __future__ import annotations

import contextlib
import functools
import gc
import marshal
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, TextIO

from sdbox import loop, verdict
from sdbox.cli import streams
from sdbox.cli.signals import stop
from sdbox.cli.talk import complain
from sdbox.errors import SdboxError
from sdbox.init import wire
from sdbox.launch.beginning import Launch
from sdbox.launch.dialler import Dialler, connect
from sdbox.launch.execution import execute
from sdbox.plan import Plan
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdbox.cli.relay import Relay
    from sdbox.cli.signals import Signals
    from sdbox.job import Job
    from sdbox.launch.helper import Helper
    from sdbox.result import Result
    from sdbox.systemd.endpoint import Endpoint


@record
class Front:
    """What of this process goes on to a job, and the other way.

    `follow` is done when the payload was stopped, `relay` is to its terminal, if it has its own.
    """

    signals: Signals
    follow: Callable[[], None] | None
    relay: Relay | None

    @contextlib.contextmanager
    def following(self, job: Job) -> Iterator[None]:
        """Pass on signals, stops, and what is typed and shown."""
        forward = job.send_signal if self.follow is None else functools.partial(_forward, job)
        if self.follow is not None:
            job.on_stopped(functools.partial(_follow, job, self.follow))
        if self.relay is not None:
            job.on_continued(self.relay.proceed)
        loop.running().add_reader(self.signals.fd, self.signals.forward, forward)
        with self.relay.running() if self.relay is not None else contextlib.nullcontext():
            yield
        loop.running().remove_reader(self.signals.fd)


# Of what comes with a plan, by its name.
_FILES = (b"report", b"record")


def supervise(
    report: socket.socket, *, endpoint: Endpoint, helper: Helper, signals: Signals, stops: bool
) -> Result | int:
    """See a launch through to the job's end; or return the exit status where there is none.

    `report` is where init will speak. `stops`: stop with the payload, for a shell's sake. Not
    otherwise: who continues just the payload would leave the job without a supervisor.
    """
    return loop.run(_supervise(report, endpoint, helper, signals, stops=stops))


async def _supervise(
    report: socket.socket, endpoint: Endpoint, helper: Helper, signals: Signals, *, stops: bool
) -> Result | int:
    helper.attach()
    dialler = Dialler(endpoint, helper)
    # While the helper reads the command line.
    dialler.begin()
    try:
        fields, fds = await helper.answer(wire.PLAN)
        if fields[0] == b"over":
            await helper.close()
            return int(fields[2])
        if fields[0] == b"detach":
            return await _detach(dialler, fields[2:], fds)
        plan = _received_plan(fds[0])
        return await _launch(plan, report, fields[2:], fds[1:], dialler, signals, stops=stops)
    finally:
        await dialler.close()


async def _launch(
    plan: Plan,
    report: socket.socket,
    names: list[bytes],
    fds: list[int],
    dialler: Dialler,
    signals: Signals,
    *,
    stops: bool,
) -> Result:
    given = list(zip(names, fds, strict=True))
    files = {name: os.fdopen(fd, "w") for name, fd in given if name in _FILES}
    signals.reach_payload = plan.unit_type == "scope"
    launch = Launch(
        plan=plan,
        key=wire.LAUNCH,
        report=report,
        record=files.get(b"record"),
        to_journal=tuple(socket.socket(fileno=fd) for name, fd in given if name == b"journal"),
    )
    relay = _relay([fd for name, fd in given if name == b"terminal"])
    follow = relay.stop if relay is not None else stop if stops else None
    front = Front(signals=signals, follow=follow, relay=relay)
    result = await _account(launch, files.get(b"report"), dialler, front)
    for opened in files.values():
        with contextlib.suppress(OSError):
            opened.close()
    return result


def _relay(terminals: list[int]) -> Relay | None:
    """Return what passes on what is typed and shown, where the job has a terminal of its own."""
    if not terminals:
        return None
    from sdbox.cli.relay import Relay

    return Relay(terminals[0])


async def _detach(dialler: Dialler, names: list[bytes], fds: list[int]) -> int:
    """Have another process see to a job, and print its id."""
    from sdbox.launch.detach import detach, supervisor_unit

    memory, *others = fds
    plan = _received_plan(memory)
    connection = await connect(dialler, only=supervisor_unit(plan.job))
    try:
        files = list(zip(map(os.fsdecode, names), others, strict=True))
        await detach(connection, plan, files)
    finally:
        await connection.close()
    print(plan.job)
    return 0


def _received_plan(fd: int) -> Plan:
    with open(fd, "rb") as file:
        file.seek(0)
        return Plan.from_plain(marshal.load(file))  # noqa: S302 - from this very program


async def _account(
    launch: Launch,
    report: TextIO | None,
    dialler: Dialler,
    front: Front,
) -> Result:
    """See the job to its end, and write the account of that, or of the launch that failed."""
    try:
        result = await _see_through(launch, dialler, front)
    except SdboxError as error:
        write_report(report, verdict.launch_failed(launch.plan, time.time(), str(error)))
        raise
    write_report(report, result)
    return result


async def _see_through(launch: Launch, dialler: Dialler, front: Front) -> Result:
    connection = await connect(dialler, only=launch.plan.only)
    try:
        job = await execute(connection, launch)
        streams.let_go()
        # What there is by now stays to the end: it need not be looked at.
        gc.freeze()
        gc.enable()
        with front.following(job):
            result = await job.wait()
        if job.series is not None and job.series.error is not None:
            complain(f"--record: {job.series.error.strerror}")
        return result
    finally:
        await connection.close()


def _follow(job: Job, stop: Callable[[], None]) -> None:
    # What init tells may be late: the payload may have been continued since.
    if job.is_stopped:
        stop()


def _forward(job: Job, number: int) -> None:
    if number == signal.SIGCONT:
        # A shell's `fg` continues the payload as well.
        job.resume()
    else:
        job.send_signal(number)


def write_report(report: TextIO | None, result: Result) -> None:
    """Write the account of a job to an open file, if there is one."""
    if report is None:
        return
    import json

    try:
        json.dump(result.to_json(), report, indent=2)
        report.write("\n")
        report.flush()
    except OSError as error:
        # The job is done, and its status is what the caller needs most.
        complain(f"--report: {error.strerror}")
