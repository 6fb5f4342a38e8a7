"""A real manager to test with: the machine's own, or an embedded one for this run alone."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import embedded
from sdbox.bus import Bus
from sdbox.manager import Manager
from sdbox.systemd.endpoint import CGROUP_ROOT, SYSTEM_BUS, booted
from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

SECONDS = seconds(30)


@dataclass(frozen=True, kw_only=True)
class Site:
    """How tests reach the manager. `pid` is the manager's, where it is an embedded one."""

    bus_address: str
    cgroup_root: str
    pid: int | None = None
    launch_cgroup: str | None = None

    def enter(self, *options: str) -> list[str]:
        """What to put before a command for it to run in the manager's namespaces."""
        return [] if self.pid is None else ["nsenter", f"--target={self.pid}", *options, "--"]

    def inner_pid(self, pid: int) -> int:
        """A process's PID as the manager has it."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("NSpid:"))
        return int(line.split()[-1])

    def systemctl(self, *arguments: str) -> str:
        command = [*self.enter("--all"), "systemctl", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A process in the manager's PID namespace: its PID here, and there."""

    pid: int
    inner_pid: int


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.geteuid() != 0:
        pytest.skip("a manager to test with needs root")
    if booted():
        yield Site(bus_address=f"unix:path={SYSTEM_BUS}", cgroup_root=CGROUP_ROOT)
        return
    directory = tmp_path_factory.mktemp("embedded") / "state"
    name = f"test-site-{os.getpid()}"
    manager = embedded.start(name=name, directory=str(directory))
    try:
        yield Site(
            bus_address=f"unix:path={manager.bus_socket}",
            cgroup_root=manager.cgroup_root,
            pid=manager.pid,
            launch_cgroup=manager.launch_cgroup,
        )
    finally:
        embedded.stop(force=True, name=name, directory=str(directory))


@pytest.fixture
def spawn(site: Site) -> Iterator[Callable[..., Inside]]:
    """Start shell commands as the manager can be given them; killed in the end."""
    started: list[tuple[subprocess.Popen[str], int]] = []

    def start(script: str = "exec sleep 600") -> Inside:
        process = subprocess.Popen(
            [*site.enter("--pid"), "sh", "-c", f"echo; read line; {script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        pid = process.pid if site.pid is None else _only_child(process.pid)
        started.append((process, os.pidfd_open(pid)))
        if site.launch_cgroup is not None:
            Path(site.launch_cgroup, "cgroup.procs").write_text(str(pid))
        process.stdin.write("\n")
        process.stdin.flush()
        return Inside(pid=pid, inner_pid=site.inner_pid(pid))

    yield start
    for process, pidfd in started:
        _kill(pidfd)
        process.communicate()


@pytest.fixture
def own_bus(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A bus for this test alone: its address and its daemon."""
    address = f"unix:path={tmp_path}/bus"
    configuration = tmp_path / "bus.conf"
    configuration.write_text(
        f"<busconfig><listen>{address}</listen><policy context='default'><allow user='*'/>"
        "<allow send_destination='*' eavesdrop='true'/><allow eavesdrop='true'/>"
        "</policy><limit name='max_replies_per_connection'>128</limit></busconfig>"
    )
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    daemon.stdout.readline()
    yield address, daemon
    daemon.kill()
    daemon.communicate()


@pytest.fixture
async def manager(site: Site) -> AsyncIterator[Manager]:
    manager = await connected(site.bus_address)
    yield manager
    await manager.close()


async def connected(address: str, *, only: str | None = None) -> Manager:
    return await Manager.connect(
        lambda: Bus.connect(address, timeout=SECONDS), timeout=SECONDS, only=only
    )


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
