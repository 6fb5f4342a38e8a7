"""The supervisor of a detached job: the main process of a service.

`sdbox.launch.detach` starts it.

On its stdin is a socket, in which there is one message: the names of the descriptors that come
with it. They are

    plan             the plan, and how to reach the manager
    caller, root     who asked for the job, and its root directory
    stdout, stderr   the job's
    report, record   files to be written, if they were asked for
    journal          the streams through which the job writes to the journal, if it does
    held             what the box's end is to let go of

It answers `started`, or `failed MESSAGE HINT STATUS`.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import signal
import socket
import time
from typing import TYPE_CHECKING

from sdbox import loop, verdict
from sdbox.cli.supervise import write_report
from sdbox.errors import SdboxError
from sdbox.init import mounts, syscalls, wire
from sdbox.init.service import enter
from sdbox.launch.beginning import begin
from sdbox.launch.dialler import Dialler, connect
from sdbox.launch.execution import execute
from sdbox.launch.helper import Helper
from sdbox.plan import Plan
from sdbox.systemd.endpoint import Endpoint

if TYPE_CHECKING:
    from typing import NoReturn

    from sdbox.job import Job
    from sdbox.launch.beginning import Launch
    from sdbox.plan.spec import Mount
    from sdbox.result import Result

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWCGROUP
)
_PROC: Mount = ("MountAPIVFS", "/proc", {"kind": "proc", "options": {}})


def main() -> NoReturn:
    """See a job through, from its start to its end."""
    # Said to the job instead, when somebody stops this service.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    control = socket.socket(fileno=os.dup(0))
    names, fds = wire.receive(control)
    if not names:
        # Who asked for the job is gone.
        os._exit(1)
    files = Files(names, fds)
    plan, endpoint = _received(files.one(b"plan"))
    _go_to_caller(files.one(b"caller"), files.one(b"root"), endpoint)
    helper = Helper.fork()
    loop.run(_supervise(control, plan, endpoint, helper, files))
    os._exit(0)


class Files:
    """Descriptors by their names, of which there may be more than one."""

    def __init__(self, names: list[bytes], fds: list[int]) -> None:
        self._given = list(zip(names, fds, strict=True))

    def all(self, name: bytes) -> list[int]:
        """Return those of that name."""
        return [fd for known, fd in self._given if known == name]

    def one(self, name: bytes) -> int:
        """Return the one of that name."""
        (fd,) = self.all(name)
        return fd


def _received(memory: int) -> tuple[Plan, Endpoint]:
    with open(memory, "rb") as file:
        file.seek(0)
        document = marshal.load(file)  # noqa: S302 - from whoever started this, who is root
    return Plan.from_plain(document["plan"]), Endpoint(**document["endpoint"])


def _go_to_caller(caller: int, root: int, endpoint: Endpoint) -> None:
    """See the files that the caller sees, and the processes that the manager sees."""
    enter(caller, root, _NAMESPACES)
    wire.close([caller, root])
    if endpoint.kind == "embedded":
        syscalls.unshare(syscalls.CLONE_NEWNS)
        mounts.mount_all(None, [_PROC], {})
    os.chdir("/")


async def _supervise(
    control: socket.socket, plan: Plan, endpoint: Endpoint, helper: Helper, files: Files
) -> None:
    """Write how the job ended, or that it did not start: whoever asked for it is told why."""
    helper.attach()
    try:
        _write(files, await _see_through(control, plan, endpoint, helper, files))
    except SdboxError as error:
        _write(files, verdict.launch_failed(plan, time.time(), str(error)))
        with contextlib.suppress(OSError):
            wire.send(control, "failed", error.message, error.hint, error.exit_status)


def _write(files: Files, result: Result) -> None:
    for report in files.all(b"report"):
        with open(report, "w", encoding="utf-8") as file:
            write_report(file, result)


async def _see_through(
    control: socket.socket, plan: Plan, endpoint: Endpoint, helper: Helper, files: Files
) -> Result:
    connection = await connect(Dialler(endpoint, helper), only=plan.only)
    try:
        job = await execute(connection, _begun(helper, plan, files))
        await _tell_started(control, job)
        gc.freeze()
        terminations = syscalls.signalfd({signal.SIGTERM})
        loop.running().add_reader(terminations, _stop, terminations, job)
        return await job.wait()
    finally:
        await connection.close()


def _begun(helper: Helper, plan: Plan, files: Files) -> Launch:
    """Ask for the job's init, and keep nothing of what only the job is to have."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    streams = (null, files.one(b"stdout"), files.one(b"stderr"))
    held = files.all(b"held")
    records = [os.fdopen(fd, "w") for fd in files.all(b"record")]
    try:
        return begin(
            helper,
            plan,
            streams,
            record=records[0] if records else None,
            to_journal=tuple(socket.socket(fileno=fd) for fd in files.all(b"journal")),
            held=held,
        )
    finally:
        wire.close([*streams, *held])


async def _tell_started(control: socket.socket, job: Job) -> None:
    try:
        wire.send(control, "started")
    except ConnectionError:
        # Nobody knows of this job.
        await job.kill()
    control.close()


def _stop(terminations: int, job: Job) -> None:
    os.read(terminations, 4096)
    loop.running().create_task(job.stop())
