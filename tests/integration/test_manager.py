"""manager.py against a real systemd."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.bus import MAX_CALLS
from sdbox.cgroup import Cgroup
from sdbox.errors import LaunchFailed, ManagerRefused, ManagerUnavailable, TimedOut
from sdbox.properties import UnitProperty
from sdbox.systemd import calls as systemd
from sdbox.systemd.calls import MINIMUM_VERSION, SYSTEMD
from tests.integration.conftest import connected
from tests.pace import seconds

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Coroutine

    from sdbox.manager import Manager
    from tests.integration.conftest import Inside, Site

    Spawn = Callable[..., Inside]

SECONDS = seconds(20)
SHORT = 0.1
# What is not to wait for systemd's TimeoutStopSec=, 90 s.
SOON = seconds(5)

NUMBERS = itertools.count()


def new_unit() -> str:
    return f"sdbox-test-{os.getpid()}-{next(NUMBERS)}.scope"


def properties(**values: tuple[str, Any]) -> list[UnitProperty]:
    return [
        UnitProperty(name=name, signature=signature, value=value)
        for name, (signature, value) in values.items()
    ]


async def started(manager: Manager, process: Inside, **values: tuple[str, Any]) -> str:
    """A new scope with the process in it."""
    unit = new_unit()
    pidfd = os.pidfd_open(process.pid)
    try:
        await manager.start_scope(
            unit, properties(**values), pids=[process.inner_pid], pidfds=[pidfd]
        )
    finally:
        os.close(pidfd)
    return unit


async def cgroup_of(manager: Manager, site: Site, unit: str) -> Cgroup:
    path = await manager.unit_property(unit, "Scope", "ControlGroup")
    return Cgroup.open(site.cgroup_root + path)


async def refusal(call: Coroutine[Any, Any, Any]) -> ManagerRefused:
    with pytest.raises(ManagerRefused) as caught:
        await call
    return caught.value


def ended(process: Inside) -> bool:
    """Whether it is no more, or dead and not reaped."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


async def test_version(manager: Manager, site: Site) -> None:
    assert manager.version >= MINIMUM_VERSION
    text = await asyncio.to_thread(site.systemctl, "--version")
    assert manager.version == int(text.split()[1])


async def test_start_scope(manager: Manager, site: Site, spawn: Spawn) -> None:
    process = spawn()
    unit = await started(
        manager,
        process,
        Slice=("s", "sdbox.slice"),
        Description=("s", "A job, for a test"),
        MemoryMax=("t", 64 * 2**20),
        AllowedCPUs=("ay", b"\1"),
        Documentation=("as", ("https://example.org/a",)),
    )
    with await cgroup_of(manager, site, unit) as cgroup:
        assert cgroup.name == f"{site.cgroup_root}/sdbox.slice/{unit}"
        assert cgroup.processes() == [process.pid]
    assert await manager.unit_property(unit, "Scope", "MemoryMax") == 64 * 2**20
    assert await manager.unit_property(unit, "Unit", "CollectMode") == "inactive-or-failed"
    (status,) = await manager.list_units(unit)
    assert (status.name, status.description) == (unit, "A job, for a test")
    assert (status.load_state, status.active_state) == ("loaded", "active")
    assert await manager.unit_result(unit) == "success"


async def test_many_scopes_at_once(manager: Manager, spawn: Spawn) -> None:
    processes = [spawn() for _ in range(40)]
    units = await asyncio.gather(*(started(manager, process) for process in processes))
    pattern = f"sdbox-test-{os.getpid()}-*"
    assert set(units) <= {status.name for status in await manager.list_units(pattern)}
    await asyncio.gather(*(manager.destroy(unit) for unit in units))
    assert not await manager.list_units(pattern)
    assert all(ended(process) for process in processes)


async def test_more_jobs_at_once_than_systemds_connection_takes(
    manager: Manager, spawn: Spawn
) -> None:
    # dbus-daemon lets a connection have 512 match rules, and systemd needs one for each job.
    process = spawn()
    units = await asyncio.gather(*(started(manager, process) for _ in range(600)))
    assert len(set(units)) == 600
    await asyncio.gather(*(manager.destroy(unit) for unit in units))
    assert ended(process)


async def test_a_name_that_is_taken(manager: Manager, spawn: Spawn) -> None:
    unit = await started(manager, spawn())
    error = await refusal(manager.start_scope(unit, [], pids=[spawn().inner_pid]))
    assert error.name == f"{SYSTEMD}.UnitExists"
    assert unit in error.message
    assert unit in error.hint


async def test_a_property_that_no_scope_has(manager: Manager, spawn: Spawn) -> None:
    error = await refusal(started(manager, spawn(), PrivateTmp=("b", True)))
    assert error.name == "org.freedesktop.DBus.Error.PropertyReadOnly"
    assert f"systemd {manager.version}" in error.hint


async def test_a_property_of_another_type(manager: Manager, spawn: Spawn) -> None:
    error = await refusal(started(manager, spawn(), MemoryMax=("s", "64M")))
    # -ENXIO is what sd_bus_message_read() has for it.
    assert error.name == "System.Error.ENXIO"


async def test_a_process_that_is_not_there(manager: Manager) -> None:
    # The kernel's largest PID is 2^22.
    with pytest.raises((ManagerRefused, LaunchFailed)):
        await manager.start_scope(new_unit(), [], pids=[2**22 + 1])


async def test_what_is_looked_at_last_keeps_a_scope_from_its_start(
    manager: Manager, spawn: Spawn
) -> None:
    process, unit = spawn(), new_unit()

    def look_again() -> None:
        raise LookupError(unit)

    # More often than the bus has places for what it is to answer.
    for _ in range(MAX_CALLS + 1):
        with pytest.raises(LookupError):
            await manager.start_scope(unit, [], pids=[process.inner_pid], look_again=look_again)
    assert not await manager.exists(unit)


async def test_a_slice_that_can_not_be(manager: Manager, spawn: Spawn) -> None:
    error = await refusal(started(manager, spawn(), Slice=("s", "no-slice.service")))
    assert error.name.startswith("org.freedesktop.DBus.Error.")


async def test_freeze_and_thaw(manager: Manager, site: Site, spawn: Spawn) -> None:
    unit = await started(manager, spawn())
    with await cgroup_of(manager, site, unit) as cgroup:
        for _ in range(2):
            await manager.freeze(unit)
            assert cgroup.flat("cgroup.events") == {"populated": 1, "frozen": 1}
        assert await manager.unit_property(unit, "Unit", "FreezerState") == "frozen"
        for _ in range(2):
            await manager.thaw(unit)
            assert cgroup.flat("cgroup.events") == {"populated": 1, "frozen": 0}


async def test_kill(manager: Manager, site: Site, spawn: Spawn) -> None:
    unit = await started(manager, spawn("trap 'exit 0' USR1; while :; do sleep 0.05; done"))
    with await cgroup_of(manager, site, unit) as cgroup:
        await manager.kill(unit, signal.SIGUSR1)
        await cgroup.wait_empty_async(SECONDS)
    await manager.wait_removed(unit)


async def test_stop(manager: Manager, spawn: Spawn) -> None:
    process = spawn()
    unit = await started(manager, process)
    await manager.stop(unit)
    assert ended(process)
    await manager.wait_removed(unit)


async def test_stop_of_a_frozen_unit(manager: Manager, spawn: Spawn) -> None:
    process = spawn()
    unit = await started(manager, process)
    await manager.freeze(unit)
    began = time.monotonic()
    await manager.stop(unit)
    assert time.monotonic() - began < SOON
    assert ended(process)


@pytest.mark.parametrize("verb", ["freeze", "thaw"])
async def test_stop_while_somebody_else_freezes_or_thaws(
    manager: Manager, site: Site, spawn: Spawn, verb: str
) -> None:
    """A systemd that has to be asked to thaw it first calls that off for what comes meanwhile."""
    unit, other = await started(manager, spawn()), await connected(site.bus_address)
    # The kernel tells of what follows 10 ms later at the earliest: until then it is under way.
    await manager.freeze(unit)
    stop, _ = await asyncio.gather(
        manager.stop(unit), getattr(other, verb)(unit), return_exceptions=True
    )
    await other.close()
    assert stop is None
    await manager.wait_removed(unit)


async def test_stop_of_a_slice_with_a_unit_whose_cgroup_is_gone(
    manager: Manager, site: Site, spawn: Spawn
) -> None:
    """As that of a unit that is about to end, which is as good as thawed."""
    own = new_unit().removesuffix(".scope").replace("-", "x").replace("sdboxx", "sdbox-")
    unit = await started(manager, spawn(), Slice=("s", f"{own}-inner.slice"))
    await manager.destroy(unit)
    cgroup = await manager.unit_property(f"{own}-inner.slice", "Slice", "ControlGroup")
    os.rmdir(site.cgroup_root + cgroup)
    await manager.stop(f"{own}.slice")
    assert not await manager.exists(f"{own}-inner.slice")


async def test_two_stops_at_once(manager: Manager, spawn: Spawn) -> None:
    unit = await started(manager, spawn())
    await asyncio.gather(manager.stop(unit), manager.stop(unit), manager.destroy(unit))
    assert not await manager.exists(unit)


@pytest.mark.parametrize("frozen", [False, True])
async def test_destroy_takes_what_forks(
    manager: Manager, site: Site, spawn: Spawn, frozen: bool
) -> None:
    process = spawn("trap '' TERM; while :; do setsid sh -c 'trap \"\" TERM; sleep 0.2' & done")
    unit = await started(manager, process, TasksMax=("t", 200))
    cgroup = await cgroup_of(manager, site, unit)
    if frozen:
        await manager.freeze(unit)
    await manager.destroy(unit)
    assert ended(process)
    with cgroup:
        assert cgroup.processes() == []
    assert not await manager.exists(unit)


async def test_destroy_takes_a_scope_that_never_had_a_process(
    manager: Manager, site: Site, spawn: Spawn
) -> None:
    parent = spawn("sleep 0 & exec sleep 600")
    zombie = await asyncio.to_thread(dead_child, parent.pid)
    unit = new_unit()
    try:
        await manager.start_scope(unit, [], pids=[site.inner_pid(zombie)])
    except (ManagerRefused, LaunchFailed):
        # A systemd that looks at what it is given.
        assert not await manager.exists(unit)
        return
    with await cgroup_of(manager, site, unit) as cgroup:
        assert cgroup.processes() == []
    await manager.destroy(unit, timeout=SOON)
    assert not await manager.exists(unit)


def dead_child(parent: int) -> int:
    """Wait for a process to have a child that is dead, and not to be reaped by it."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and Path(f"/proc/{parent}/comm").read_text() == "sleep\n":
                return int(child)
    raise AssertionError("no dead child")


async def test_units_that_are_not_there(manager: Manager) -> None:
    unit = new_unit()
    assert not await manager.exists(unit)
    await manager.stop(unit)
    await manager.destroy(unit)
    await manager.wait_removed(unit)
    assert await manager.unit_property(unit, "Unit", "ActiveState") == "inactive"
    for call in (manager.freeze(unit), manager.thaw(unit), manager.kill(unit, signal.SIGTERM)):
        error = await refusal(call)
        assert error.name == f"{SYSTEMD}.NoSuchUnit"
        assert unit in error.message
        assert error.hint


async def test_wait_removed_returns_when_it_is(manager: Manager, spawn: Spawn) -> None:
    process = spawn()
    unit = await started(manager, process)
    waiting = asyncio.create_task(manager.wait_removed(unit))
    await manager.exists(unit)
    assert not waiting.done()
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, SECONDS)
    assert not await manager.exists(unit)


async def test_wait_removed_has_an_end(manager: Manager, spawn: Spawn) -> None:
    unit = await started(manager, spawn())
    with pytest.raises(TimedOut, match=unit):
        await manager.wait_removed(unit, timeout=SHORT)


async def test_a_closed_connection_ends_all_waiting(manager: Manager, spawn: Spawn) -> None:
    unit = await started(manager, spawn())
    waiting = [asyncio.create_task(manager.wait_removed(unit)) for _ in range(2)]
    await asyncio.wait(waiting, timeout=SHORT)
    await manager.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ManagerUnavailable] * 2


async def test_only_one_unit(
    manager: Manager, site: Site, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = new_unit()
    supervisor = await connected(site.bus_address, only=unit)
    told: list[str] = []
    put = supervisor._systemd.jobs.put

    def noted(unit: str, item: Any) -> None:
        told.append(unit)
        put(unit, item)

    monkeypatch.setattr(supervisor._systemd.jobs, "put", noted)
    try:
        await supervisor.start_scope(unit, [], pids=[spawn().inner_pid])
        other = await started(manager, spawn())
        # What systemd had to say before it answers this has come before the answer.
        await supervisor.exists(unit)
        assert told == [unit]
        await supervisor.destroy(unit)
        await manager.destroy(other)
    finally:
        await supervisor.close()


async def test_a_manager_that_executes_itself_anew(
    manager: Manager, site: Site, spawn: Spawn
) -> None:
    process = spawn()
    unit = await started(manager, process)
    waiting = asyncio.create_task(manager.wait_removed(unit))
    await manager.exists(unit)
    await asyncio.to_thread(site.systemctl, "daemon-reexec")
    await manager.stop(await started(manager, spawn()))
    assert not waiting.done()
    os.kill(process.pid, signal.SIGKILL)
    await asyncio.wait_for(waiting, SECONDS)


async def test_scopes_while_the_manager_executes_itself_anew(
    manager: Manager, site: Site, spawn: Spawn
) -> None:
    processes = [spawn() for _ in range(30)]
    anew = asyncio.create_task(asyncio.to_thread(site.systemctl, "daemon-reexec"))
    units = []
    for process in processes:
        unit = await started(manager, process)
        with await cgroup_of(manager, site, unit) as cgroup:
            assert cgroup.processes() == [process.pid]
        units.append(unit)
    await anew
    await asyncio.gather(*(manager.destroy(unit) for unit in units))
    assert all(ended(process) for process in processes)


async def test_a_bus_without_systemd(
    own_bus: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_APPEAR_SECONDS", SHORT)
    with pytest.raises(ManagerUnavailable) as caught:
        await connected(own_bus[0])
    assert "systemd" in caught.value.hint
