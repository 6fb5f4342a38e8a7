"""One launch, from the command and its box to a running job; many of them in one program.

async with sdbox.Launcher() as launcher:
    job = await launcher.start(["./train"], box=sdbox.Box(MemoryMax="2G"))
    result = await job.wait()
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Self, TextIO, TypedDict, Unpack

from sdbox.errors import ManagerUnavailable
from sdbox.execution import Connection, execute
from sdbox.helper import Helper
from sdbox.host import host_of, locate
from sdbox.manager import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from sdbox.box import Box
    from sdbox.host import Choice, Endpoint, Host
    from sdbox.job import Job
    from sdbox.launch import Launch
    from sdbox.planning import Command
    from sdbox.result import Result

# A manager under load takes its time; what hangs for longer is broken.
_CALL_SECONDS = 60.0


class Options(TypedDict, total=False):
    """What `Launcher.start` takes beside the command."""

    box: Box | None
    id: str | None
    stdin: int
    stdout: int
    stderr: int
    environment: Mapping[str, str] | None
    record: TextIO | None


class Launcher:
    """Starts jobs, hundreds at a time, from one program. An async context manager.

    `manager` is `auto`, `system` or `embedded`. `notice` gets what a person should know, a line
    each. When the program ends, however it ends, so do its jobs. `endpoint`, `helper` and `only`,
    the name of the one unit that it will start, are for who has them already.
    """

    def __init__(
        self,
        *,
        manager: Choice = "auto",
        notice: Callable[[str], None] = lambda line: None,
        endpoint: Endpoint | None = None,
        helper: Helper | None = None,
        only: str | None = None,
    ) -> None:
        self._choice: Choice = manager
        self._notice = notice
        self._endpoint = endpoint
        self._helper = helper
        self._only = only
        self._connection: Connection | None = None
        self._jobs: set[Job] = set()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Start the helper and reach the manager. Raises ManagerUnavailable, TimedOut."""
        if self._endpoint is None:
            self._endpoint = await asyncio.to_thread(locate, self._choice, notice=self._notice)
        endpoint = self._endpoint
        if self._helper is None:
            self._helper = Helper.spawn(
                pid_namespace=endpoint.pid_namespace, cgroup=endpoint.launch_cgroup
            )
        self._helper.attach(asyncio.get_running_loop())
        sock = await self._helper.connect(endpoint.bus_socket)
        manager = await Manager.connect_socket(sock, timeout=_CALL_SECONDS, only=self._only)
        self._connection = Connection(
            endpoint=endpoint, host=host_of(endpoint), helper=self._helper, manager=manager
        )

    async def close(self) -> None:
        """Kill the jobs that still run, and let go of manager and helper."""
        jobs = list(self._jobs)
        await asyncio.gather(*(job.kill() for job in jobs), return_exceptions=True)
        await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
        if self._connection is not None:
            await self._connection.manager.close()
        if self._helper is not None:
            await self._helper.close()
        if self._endpoint is not None:
            self._endpoint.close()

    @property
    def host(self) -> Host:
        """What this launcher's plans know of the host."""
        return self._connected().host

    @property
    def systemd_version(self) -> int:
        """The manager's version, such as 257."""
        return self._connected().manager.version

    async def start(self, command: Command, **options: Unpack[Options]) -> Job:
        """Start a command in a box; return when it runs.

        The payload gets this program's environment, working directory and streams, unless others
        are given. `record` is an open file for samples of its usage. Raises LaunchFailed,
        Unenforceable, InvalidDirective, ManagerUnavailable, ManagerRefused and TimedOut; then
        nothing of the job is left.
        """
        # Not for `sdbox run`, which comes with a plan, and soon.
        from sdbox.box import Box
        from sdbox.launch import begin
        from sdbox.planner import new_id
        from sdbox.planning import caller, encoded, plan_for

        connection = self._connected()
        given = options.get("environment")
        plan = plan_for(
            connection.host,
            command,
            options.get("box") or Box(),
            job=options.get("id") or new_id(),
            caller=caller(os.environb if given is None else encoded(given)),
        )
        streams = (options.get("stdin", 0), options.get("stdout", 1), options.get("stderr", 2))
        record = options.get("record")
        return await self.execute(begin(connection.helper, plan, streams, record=record))

    async def run(self, command: Command, **options: Unpack[Options]) -> Result:
        """Start a command and wait for its end. Cancelling it kills the job."""
        job = await self.start(command, **options)
        try:
            return await job.wait()
        except asyncio.CancelledError:
            await job.kill()
            await job.wait()
            raise

    async def execute(self, launch: Launch) -> Job:
        """Carry out a launch that has begun, up to the running payload."""
        job = await execute(self._connected(), launch)
        self._jobs.add(job)
        job.on_end(self._jobs.discard)
        return job

    def _connected(self) -> Connection:
        if self._connection is None:
            raise ManagerUnavailable(
                "This launcher is not connected", hint="Use it in `async with`, or connect() first"
            )
        return self._connection
