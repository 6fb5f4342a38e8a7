"""Many jobs for little: scopes with one sleeping process each, started by systemd alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.bus import Bus
from sdbox.cgroup import Cgroup
from sdbox.kernel.pidfd import pid_of
from sdbox.management.memo import Memo, rewrite
from sdbox.manager import Manager
from sdbox.properties import UnitProperty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sdbox.systemd.endpoint import Endpoint

_SECONDS = 120.0
# With many more, systemd 252 is busy with what it has to tell of those that wait.
_AT_ONCE = 50
_SLEEPERS = """
import os, signal, sys
sys.stdin.readline()
pids = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@contextlib.contextmanager
def sleepers(endpoint: Endpoint, count: int) -> Iterator[list[int]]:
    """So many processes, by their PIDs as the manager has them. They end with this one."""
    enter: list[str] = []
    if endpoint.pid_namespace is not None:
        enter = ["nsenter", f"--target={pid_of(endpoint.pid_namespace)}", "--pid", "--"]
    process = subprocess.Popen(
        [*enter, sys.executable, "-I", "-S", "-c", _SLEEPERS, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if endpoint.launch_cgroup is not None:
            _move(process.pid, endpoint.launch_cgroup)
        process.stdin.write("\n")
        process.stdin.flush()
        yield list(map(int, process.stdout.readline().split()))
    finally:
        process.stdin.close()
        process.wait(_SECONDS)
        process.stdout.close()


def _move(pid: int, cgroup: str) -> None:
    """Move a process, or, where nsenter has forked, its child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *map(int, children)):
        Path(cgroup, "cgroup.procs").write_text(str(one))


@contextlib.asynccontextmanager
async def scopes(endpoint: Endpoint, prefix: str, count: int) -> AsyncIterator[list[str]]:
    """So many scopes by their units' names, gone in the end."""
    units = [f"sdbox-{prefix}-{n:04}.scope" for n in range(count)]
    address = f"unix:path={endpoint.bus_socket}"
    manager = await Manager.connect(
        lambda: Bus.connect(address, timeout=_SECONDS), timeout=_SECONDS
    )
    try:
        with sleepers(endpoint, count) as pids:
            pairs = list(zip(units, pids, strict=True))
            for start in range(0, count, _AT_ONCE):
                batch = pairs[start : start + _AT_ONCE]
                await asyncio.gather(*(_start(manager, unit, pid) for unit, pid in batch))
            for unit in units:
                _remember(endpoint, unit)
            yield units
        await asyncio.gather(*(manager.wait_removed(unit) for unit in units))
    finally:
        await manager.close()


async def _start(manager: Manager, unit: str, pid: int) -> None:
    slices = [UnitProperty(name="Slice", signature="s", value="sdbox.slice")]
    await manager.start_scope(unit, slices, pids=[pid])


def _remember(endpoint: Endpoint, unit: str) -> None:
    memo = Memo(
        job=unit.removeprefix("sdbox-").removesuffix(".scope"),
        manager=endpoint.kind,
        command=("sleep", "infinity"),
        box={"MemoryMax": "1G"},
        owner=os.getuid(),
        supervisor=None,
        started_at=1.0,
    )
    with Cgroup.open(f"{endpoint.cgroup_root}/sdbox.slice/{unit}") as cgroup:
        rewrite(cgroup.fd, memo)
