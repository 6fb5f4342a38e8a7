"""One launch, from the command and its box to a running job; many of them in one program.

async with sdbox.Launcher() as launcher:
    job = await launcher.start(["./train"], box=sdbox.Box(MemoryMax="2G"))
    result = await job.wait()
"""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TextIO, TypedDict, Unpack

from sdbox.box import Box
from sdbox.errors import ManagerUnavailable
from sdbox.host.facts import host_of
from sdbox.journal.output import Outlets, opened_through
from sdbox.journal.output import parse as parse_output
from sdbox.launch.beginning import begin
from sdbox.launch.detach import detach
from sdbox.launch.dialler import Dialler, connect
from sdbox.launch.execution import execute
from sdbox.launch.helper import Helper
from sdbox.launch.planning import assigned, caller, encoded, held, plan_for, project_for
from sdbox.plan.planner import new_id
from sdbox.systemd.endpoint import locate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from sdbox.host.facts import Host
    from sdbox.job import Job
    from sdbox.launch.beginning import Launch
    from sdbox.launch.placing import Connection
    from sdbox.launch.planning import Command
    from sdbox.management.jobs import Jobs
    from sdbox.plan import Plan
    from sdbox.properties import UnitType
    from sdbox.result import Result
    from sdbox.systemd.endpoint import Choice, Endpoint


class DetachOptions(TypedDict, total=False):
    """What `Launcher.detach` takes beside the command."""

    box: Box | None
    id: str | None
    stdout: int
    stderr: int
    output: str
    environment: Mapping[str, str] | None
    record: TextIO | None
    wait_cpus: float


class Options(DetachOptions, total=False):
    """What `Launcher.start` takes beside the command."""

    unit_type: UnitType
    stdin: int


class Launcher:
    """Starts jobs, hundreds at a time, from one program. An async context manager.

    `manager` is `auto`, `system`, `user`, `embedded` or `none`, as for `sdbox run`. `notice` gets
    what a person should know, a line each. When the program ends, however it ends, so do its jobs.
    """

    def __init__(
        self,
        *,
        manager: Choice = "auto",
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._choice: Choice = manager
        self._notice = notice
        self._endpoint: Endpoint | None = None
        self._helper: Helper | None = None
        self._connection: Connection | None = None
        self._host: Host | None = None
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
        if self._connection is not None:
            return
        endpoint = await asyncio.to_thread(locate, self._choice, notice=self._notice)
        self._endpoint = endpoint
        self._helper = Helper.spawn(
            pid_namespace=endpoint.pid_namespace, cgroup=endpoint.launch_cgroup
        )
        self._helper.attach()
        self._connection = await connect(Dialler(endpoint, self._helper))

    async def close(self) -> None:
        """Kill the jobs that still run, and let go of manager and helper."""
        jobs = list(self._jobs)
        await asyncio.gather(*(job.kill() for job in jobs), return_exceptions=True)
        await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
        if self._connection is not None:
            await self._connection.close()
        elif self._helper is not None:
            await self._helper.close()
        if self._endpoint is not None:
            self._endpoint.close()

    @property
    def host(self) -> Host:
        """What this launcher's plans know of the host."""
        if self._host is None:
            self._host = host_of(self._connected().endpoint)
        return self._host

    @property
    def systemd_version(self) -> int:
        """The manager's version, such as 257."""
        return self._connected().manager.version

    @property
    def jobs(self) -> Jobs:
        """All jobs of the manager, whoever started them."""
        from sdbox.management.jobs import Jobs

        connection = self._connected()
        return Jobs.over(connection.endpoint, connection.manager, connection.journal)

    async def start(self, command: Command, **options: Unpack[Options]) -> Job:
        """Start a command in a box; return when it runs.

        The payload gets this program's environment, working directory and streams, unless others
        are given. `output` says where stdout and stderr go, in the words of --output. `unit_type`
        is `scope`, where the job is this program's child, or `service`, where it is systemd's.
        `record` is an open file for samples of its usage. `wait_cpus` is how many seconds to wait
        for AssignedCPUs to be free. Raises LaunchFailed, Unenforceable, CPUsTaken,
        InvalidDirective, ManagerUnavailable, ManagerRefused and TimedOut; then
        nothing of the job is left.
        """
        unit_type = options.get("unit_type", "scope")
        async with self._planned(command, options, unit_type) as (plan, held):
            launch = await self._begin(plan, options, held)
        return await self.execute(launch)

    async def detach(self, command: Command, **options: Unpack[DetachOptions]) -> str:
        """Start a command in a box that goes on without this program; return its id when it runs.

        It is a service, with nothing to read on its stdin, and writes to the journal unless
        `output` says otherwise. `launcher.jobs` and `sdbox.Jobs` wait for it. Else as `start`.
        """
        async with self._planned(command, options, "service") as (plan, held):
            given: DetachOptions = {"output": "journal", **options}
            outlets = await self._outlets(plan, given)
            try:
                await detach(self._connected(), plan, _files(outlets, options.get("record"), held))
            finally:
                outlets.handed_over()
                for stream in outlets.to_journal:
                    stream.close()
        return plan.job

    @asynccontextmanager
    async def _planned(
        self, command: Command, options: DetachOptions, unit_type: UnitType
    ) -> AsyncIterator[tuple[Plan, tuple[int, ...]]]:
        """Plan a job; with it come descriptors that the job is to have before the body is over."""
        connection = self._connected()
        given = options.get("environment")
        environment = os.environb if given is None else encoded(given)
        box = options.get("box") or Box()
        claim = await assigned(connection.endpoint, box, seconds=options.get("wait_cpus", 0.0))
        project = None
        try:
            project = project_for(connection.endpoint, box)
            plan = plan_for(
                self.host,
                command,
                box,
                job=options.get("id") or new_id(),
                caller=caller(environment, unit_type=unit_type),
                unit_type=unit_type,
                cpus=claim.cpus if claim else None,
                project=project.project if project else None,
            )
            if claim is not None:
                claim.sign(plan, connection.endpoint.cgroup_root)
            yield plan, held(claim, project)
        finally:
            # From now on they are the box's, or nobody's.
            for taken in (claim, project):
                if taken is not None:
                    taken.close()

    async def _begin(self, plan: Plan, options: Options, held: tuple[int, ...]) -> Launch:
        outlets = await self._outlets(plan, options)
        try:
            return begin(
                self._connected().helper,
                plan,
                (options.get("stdin", 0), outlets.stdout, outlets.stderr),
                record=options.get("record"),
                to_journal=outlets.to_journal,
                held=held,
            )
        finally:
            outlets.handed_over()

    async def _outlets(self, plan: Plan, options: DetachOptions) -> Outlets:
        inherited = Outlets(stdout=options.get("stdout", 1), stderr=options.get("stderr", 2))
        connection, wanted = self._connected(), parse_output(options.get("output", "inherit"))
        return await opened_through(
            connection.helper, wanted, connection.endpoint.journal, plan, inherited
        )

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


def _files(outlets: Outlets, record: TextIO | None, held: tuple[int, ...]) -> list[tuple[str, int]]:
    """Name the descriptors that the supervisor of a detached job is given."""
    files = [("stdout", outlets.stdout), ("stderr", outlets.stderr)]
    files += [("journal", stream.fileno()) for stream in outlets.to_journal]
    files += [("record", record.fileno())] if record else []
    return files + [("held", fd) for fd in held]
