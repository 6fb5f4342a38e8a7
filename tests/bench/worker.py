"""A process of the benchmark that measures, where it was started: outside, or in the manager.

It reads a JSON array a line, a verb with its arguments, and answers each with a line of JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdbox import Box, Launcher
from sdbox.bus import Bus, Match, variant
from sdbox.errors import ManagerRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

TRUE = "/bin/true"
_CALL_SECONDS = 60.0
# What has started shows in its memory as it settles.
_SETTLE_SECONDS = 0.5

# Below a supervisor: its helper, and the helper's children, the inits. What is below those are
# the payloads, which are not ours to count.
_LEVELS = 2

_NULL = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
    (os.POSIX_SPAWN_DUP2, 0, 1),
    (os.POSIX_SPAWN_DUP2, 0, 2),
]

Once = Callable[[], Awaitable[object]]


def seconds(argv: list[str]) -> tuple[float, float]:
    """Return how long a whole process takes, from spawn to wait, and the CPU time of its tree."""
    started = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=_NULL)
    _, status, usage = os.wait4(pid, 0)
    taken = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(argv)}: wait status {status}")
    return taken, usage.ru_utime + usage.ru_stime


def api_rate(count: int, in_flight: int, box: dict[str, Any]) -> float:
    """Return launches a second, to the end of each, through one Launcher."""

    async def measure() -> float:
        wanted = Box.from_mapping(box)
        async with Launcher() as launcher:
            return await _steady_rate(lambda: launcher.run([TRUE], box=wanted), count, in_flight)

    return asyncio.run(measure())


def plain_rate(count: int, in_flight: int, address: str, to_the_end: bool) -> float:
    """Return launches a second of a loop that has the least that a scope takes.

    `to_the_end`: until systemd has no such unit any more, as the API does it.
    """

    async def measure() -> float:
        async with _plain_loop(address) as plain:
            once = plain.launch_to_the_end if to_the_end else plain.launch
            return await _steady_rate(once, count, in_flight)

    return asyncio.run(measure())


def waiting_command(argv: list[str]) -> int:
    """Return the bytes of `sdbox run`, its helper and its init, while the payload waits.

    The payload is `cat`, which ends as its stdin does.
    """
    stdin, ours = os.pipe2(os.O_CLOEXEC)
    stdout, theirs = os.pipe2(os.O_CLOEXEC)
    dup = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, theirs, 1)]
    pid = os.posix_spawn(argv[0], [*argv, "/bin/cat"], os.environ, file_actions=dup)
    os.close(stdin)
    os.close(theirs)
    os.write(ours, b"!")
    # It comes back when the payload runs.
    os.read(stdout, 1)
    time.sleep(_SETTLE_SECONDS)
    used = supervision(pid)
    os.close(ours)
    os.waitpid(pid, 0)
    os.close(stdout)
    return used


def waiting_jobs(counts: Sequence[int], box: dict[str, Any]) -> list[int]:
    """Return the bytes of this process, helper and inits as one Launcher holds so many jobs."""

    async def measure() -> list[int]:
        wanted = Box.from_mapping(box)
        command = ["/bin/sleep", "infinity"]
        async with Launcher() as launcher:
            used = []
            held = 0
            for count in counts:
                await _rate(lambda: launcher.start(command, box=wanted), count - held, 20)
                held = count
                await asyncio.sleep(_SETTLE_SECONDS)
                used.append(supervision(os.getpid()))
            return used

    return asyncio.run(measure())


async def _steady_rate(once: Once, count: int, in_flight: int) -> float:
    # The first one finds the kernel's lock on process groups cold, and modules not imported.
    await once()
    return await _rate(once, count, in_flight)


async def _rate(once: Once, count: int, in_flight: int) -> float:
    todo = iter(range(count))

    async def lane() -> None:
        for _ in todo:
            await once()

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return count / (time.perf_counter() - started)


class _PlainLoop:
    """StartTransientUnit with a blocked child in it; then the child becomes `true`."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._numbers = itertools.count()
        self._jobs: dict[str, asyncio.Future[str]] = {}

    async def launch_to_the_end(self) -> None:
        unit = await self.launch()
        # It may be gone already.
        with suppress(ManagerRefused):
            await self._job(unit, "StopUnit", "ss", unit, "replace")

    async def launch(self) -> str:
        unit = f"sdbox-bench-{os.getpid()}-{next(self._numbers)}.scope"
        pid, go = _blocked_child()
        properties = [
            ("Slice", variant("s", "sdbox.slice")),
            ("CollectMode", variant("s", "inactive-or-failed")),
            ("PIDs", variant("au", [pid])),
        ]
        await self._job(
            unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties, ()
        )
        os.write(go, b"!")
        os.close(go)
        await _ended(pid)
        return unit

    async def _job(self, unit: str, member: str, signature: str, *arguments: Any) -> None:
        """Call what makes a job of systemd's, and wait for its end."""
        ended = self._jobs[unit] = asyncio.get_running_loop().create_future()
        await self._bus.call(
            destination="org.freedesktop.systemd1",
            path="/org/freedesktop/systemd1",
            interface="org.freedesktop.systemd1.Manager",
            member=member,
            signature=signature,
            body=arguments,
            timeout=_CALL_SECONDS,
        )
        if (result := await ended) != "done":
            raise SystemExit(f"{unit}: {member}: {result}")

    def job_removed(self, body: list[Any]) -> None:
        _, _, unit, result = body
        # Units that are not ours end, too.
        if ended := self._jobs.pop(unit, None):
            ended.set_result(result)


@asynccontextmanager
async def _plain_loop(address: str) -> AsyncIterator[_PlainLoop]:
    bus = await Bus.connect(address, timeout=_CALL_SECONDS)
    plain = _PlainLoop(bus)
    match = Match(
        sender="org.freedesktop.systemd1",
        path="/org/freedesktop/systemd1",
        interface="org.freedesktop.systemd1.Manager",
        member="JobRemoved",
    )
    await bus.add_match(match, plain.job_removed, timeout=_CALL_SECONDS)
    try:
        yield plain
    finally:
        await bus.close()


def _blocked_child() -> tuple[int, int]:
    """Return the PID of a child that waits for a byte on the descriptor, and becomes `true`."""
    wait, go = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(go)
        if os.read(wait, 1):
            os.execv(TRUE, [TRUE])
        os._exit(1)
    os.close(wait)
    return pid, go


async def _ended(pid: int) -> None:
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(pid)
    ended = loop.create_future()
    loop.add_reader(pidfd, ended.set_result, None)
    await ended
    loop.remove_reader(pidfd)
    os.close(pidfd)
    if os.waitpid(pid, 0)[1]:  # noqa: ASYNC222 - it has ended
        raise SystemExit(f"The child {pid} could not become {TRUE}")


def supervision(supervisor: int) -> int:
    """Return the bytes (PSS) of a supervisor, its helper and its inits."""
    children = _children()
    level = [supervisor]
    total = _pss(supervisor)
    for _ in range(_LEVELS):
        level = [child for parent in level for child in children.get(parent, ())]
        total += sum(map(_pss, level))
    return total


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            stat = (directory / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # proc_pid_stat(5): after the command, in parentheses, come the state and the parent.
        parent = int(stat.rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(directory.name))
    return children


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


_VERBS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (seconds, api_rate, plain_rate, waiting_command, waiting_jobs)
}


def main() -> None:
    """Answer until there is nothing more to read."""
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(_VERBS[verb](*arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
