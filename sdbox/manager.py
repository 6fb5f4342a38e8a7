"""systemd's manager, over D-Bus: scopes and what can be done to them, by systemd's version."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from sdbox import loop
from sdbox.bus import variant
from sdbox.errors import ConnectionLost, LaunchFailed, ManagerRefused, TimedOut
from sdbox.record import record
from sdbox.systemd.calls import (
    CGROUP_GONE,
    FREEZE_CANCELLED,
    FROZEN_BY_PARENT,
    JOB_FAILED,
    NO_SUCH_PROCESS,
    NO_SUCH_UNIT,
    NO_UNIT_FOR_PID,
    NOT_REFERENCED,
    NOT_SUPPORTED,
    PATH,
    SYSTEMD,
    UNIT_BUSY,
    UNIT_EXISTS,
    UNIT_INACTIVE,
    Systemd,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from sdbox.properties import OwnSlice, UnitProperty
    from sdbox.systemd.line import Dial

# Versions of systemd, from its sources at the tags.
_PIDFDS_SINCE = 255
# Newer ones refuse to stop what is frozen.
_STOP_THAWS_UP_TO = 255

# How long killing waits for a freeze: a task in uninterruptible sleep never freezes, and SIGKILL
# takes the others anyway.
_FREEZE_SECONDS = 2.0
_KILL_AGAIN_SECONDS = 5.0

# systemd tells only who asked for a freeze, or a thaw, when it is done.
_FREEZER_RETRY_SECONDS = 0.05
# Of a job whose answer was lost there is nothing to wait for.
_JOB_RETRY_SECONDS = 0.05
# A job's result that systemd does not know: the connection was lost with it.
_LOST = "lost"
_STOP_AGAIN = ("frozen", _LOST)
# For each job under way systemd has a match rule on its own connection, and dbus-daemon's default
# lets it have 512 (max_match_rules_per_connection); with one more systemd drops the connection, and
# with it what came of all jobs (tried). Others have jobs, too.
_MOST_JOBS = 200
# Requests of those inside of boxes that are under way: fewer than the bus takes of one connection,
# since what ends such a box goes by the same.
_MOST_GUESTS = 60

_JOB_HINTS = {
    "canceled": "Another request for the unit, such as systemctl stop, replaced it",
    "timeout": "systemd gave up waiting; see `systemctl list-jobs`",
    "failed": "See `journalctl -u {unit}`",
    "dependency": "A unit that it depends on, such as its slice, did not start",
    "skipped": "systemd had no need to run it",
    "frozen": "Its slice or the unit itself is frozen: thaw it first",
    "collected": "systemd unloaded the unit before it started",
}


# systemd.exec(5), "Process Exit Codes": what it could not do for a service's process.
_STEPS = {
    202: "descriptors",
    203: "exec",
    208: "StandardInput",
    209: "StandardOutput",
    215: "CPUAffinity",
    219: "cgroup",
    222: "StandardError",
    225: "PrivateNetwork",
    226: "namespaces",
    227: "NoNewPrivileges",
}


@record
class UnitStatus:
    """One line of list_units(); the states are systemd's own words."""

    name: str
    description: str
    load_state: str
    active_state: str
    sub_state: str


class Manager:
    """One systemd manager. Made by connect(); `version` is such as 257.

    Every verb raises ManagerRefused, ManagerUnavailable or TimedOut. `timeout`, in seconds, holds
    for one verb; without one it is that of the connection. The unit of a verb is a full name.
    A connection that is lost is made anew, and what was under way goes on.
    """

    def __init__(self, systemd: Systemd) -> None:
        self._systemd = systemd
        self._places = loop.Semaphore(_MOST_JOBS)
        self.guests = loop.Semaphore(_MOST_GUESTS)

    @property
    def version(self) -> int:
        """systemd's major version."""
        return self._systemd.version

    @classmethod
    async def connect(cls, dial: Dial, *, timeout: float, only: str | None = None) -> Manager:
        """Connect by what `dial` makes: another connection when one is lost.

        With `only`, the name of a unit, no signals about other units are received: a supervisor
        of one job is not to be woken for every job of the machine.
        """
        systemd = Systemd(dial, timeout=timeout, only=only)
        await systemd.open()
        return cls(systemd)

    async def close(self) -> None:
        """Close the connection. Units live on."""
        await self._systemd.close()

    async def start_scope(
        self,
        unit: str,
        properties: Sequence[UnitProperty],
        *,
        pids: Sequence[int],
        pidfds: Sequence[int] = (),
        own_slice: OwnSlice | None = None,
        timeout: float | None = None,
        look_again: Callable[[], object] | None = None,
    ) -> None:
        """Start a transient scope with these processes in it; return when its job is done.

        `pids` are as the manager's PID namespace has them; `pidfds`, of the same processes, are
        used instead where systemd takes them (255). Where it does not, `look_again` is called right
        before they are sent: it raises where a PID is another process's by now. `own_slice` is made
        with the scope, for it to be in. Raises LaunchFailed when systemd could not start it. After
        TimedOut or a cancellation the scope may still come to be, as long as its processes live.
        Whether they are in it has to be looked at by the caller: see systemd issue 36781.
        """
        processes, fds = self._processes(pids, pidfds)
        async with self._within(timeout, f"starting {unit}"):
            result = await self._start(
                unit,
                properties,
                [processes],
                fds,
                lambda: self._has(unit, pids[0]),
                own_slice,
                before=None if fds else look_again,
            )
        if result != "done":
            raise LaunchFailed(f"{unit}: systemd's job ended as {result}", hint=_hint(result, unit))

    async def start_service(
        self,
        unit: str,
        properties: Sequence[UnitProperty],
        *,
        command: Sequence[str],
        stdin: int,
        own_slice: OwnSlice | None = None,
        timeout: float | None = None,
    ) -> None:
        """Start a transient service that runs a command; return when its job is done.

        The command gets one more word, by which the service is known from any other of its name.
        LaunchFailed when systemd could not start it. After TimedOut or a cancellation the service
        may still come to be.
        """
        words = [*command, os.urandom(8).hex()]
        own = [
            ("ExecStart", variant("a(sasb)", [(command[0], words, False)])),
            ("StandardInputFileDescriptor", variant("h", 0)),
        ]
        if not self._systemd.direct:
            # Or it would be unloaded before it could be asked why it failed.
            own.append(("AddRef", variant("b", True)))
        async with self._within(timeout, f"starting {unit}"):
            result = await self._start(
                unit, properties, own, [stdin], lambda: self._executes(unit, words), own_slice
            )
            status = 0
            if result != "done":
                status = await self.unit_property(unit, "Service", "ExecMainStatus")
            # The reference went with the connection, if that was lost.
            with _unless(NO_SUCH_UNIT, NOT_REFERENCED):
                if not self._systemd.direct:
                    await self._call("UnrefUnit", "s", unit)
        if result != "done":
            failed = f"systemd's job ended as {result}"
            if status in _STEPS:
                failed = f"{_STEPS[status]}: systemd could not set it up"
            raise LaunchFailed(f"{unit}: {failed}", hint=_hint(result, unit))

    async def stop(self, unit: str, *, timeout: float | None = None) -> None:
        """Stop a unit as its properties say; return when systemd is done, or it is gone already.

        A frozen unit is thawed, so that its processes can act on the signal.
        """
        async with self._within(timeout, f"stopping {unit}"):
            with _unless(NO_SUCH_UNIT):
                # Somebody may be freezing it, with destroy() for one.
                while (result := await self._stopped(unit)) in _STOP_AGAIN:
                    await loop.sleep(_FREEZER_RETRY_SECONDS)
                if result != "done":
                    text = f"{unit}: systemd's job to stop it ended as {result}"
                    raise ManagerRefused(text, name=JOB_FAILED, hint=_hint(result, unit))

    async def destroy(self, unit: str, *, timeout: float | None = None) -> None:
        """SIGKILL all processes of a unit; return when systemd has unloaded it.

        Frozen before, because KillUnit signals one process after the other, and what forks
        meanwhile could get away. It also makes systemd look at a cgroup that never had a process,
        of whose emptiness the kernel says nothing: that of a scope whose process was a zombie
        when it was to get it (tried). Nothing happens where there is no such unit.
        """
        async with self._within(timeout, f"killing {unit}"):
            while not await self._killed(unit):
                # It was not frozen in time, and what forked got away; it does not twice.
                pass

    async def freeze(self, unit: str, *, timeout: float | None = None) -> None:
        """Freeze a unit; return when the kernel says that all of it is frozen.

        A task in uninterruptible sleep makes that TimedOut; the unit is freezing all the same.
        """
        await self._call("FreezeUnit", "s", unit, timeout=timeout)

    async def thaw(self, unit: str, *, timeout: float | None = None) -> None:
        """Undo freeze()."""
        await self._call("ThawUnit", "s", unit, timeout=timeout)

    async def kill(self, unit: str, number: int, *, timeout: float | None = None) -> None:
        """Send a signal to each process of a unit, which may be fewer than fork meanwhile."""
        await self._call("KillUnit", "ssi", unit, "all", int(number), timeout=timeout)

    async def wait_removed(self, unit: str, *, timeout: float | None = None) -> None:
        """Return when systemd has unloaded a unit, or has none of that name."""
        async with self._within(timeout, f"waiting for the end of {unit}"):
            while not await self._seen_removed(unit):
                # The connection was lost, and maybe the signal with it.
                pass

    async def exists(self, unit: str, *, timeout: float | None = None) -> bool:
        """Whether systemd has a unit of that name loaded."""
        try:
            await self._call("GetUnit", "s", unit, timeout=timeout)
        except ManagerRefused as error:
            if error.name != NO_SUCH_UNIT:
                raise
            return False
        return True

    async def unit_property(
        self, unit: str, interface: str, name: str, *, timeout: float | None = None
    ) -> Any:
        """A property of a unit, such as `"Scope", "ControlGroup"` or `"Unit", "ActiveState"`.

        systemd makes up a unit that it doesn't have: ActiveState `inactive`, the rest empty.
        """
        return await self._systemd.get(unit_path(unit), f"{SYSTEMD}.{interface}", name, timeout)

    async def unit_result(self, unit: str, *, timeout: float | None = None) -> str:
        """A scope's or service's Result: success, timeout, oom-kill and others."""
        interface = unit.rpartition(".")[2].capitalize()
        result: str = await self.unit_property(unit, interface, "Result", timeout=timeout)
        return result

    async def list_units(
        self, *patterns: str, timeout: float | None = None
    ) -> tuple[UnitStatus, ...]:
        """Loaded units whose name matches one of these shell patterns, by one call."""
        (units,) = await self._systemd.call(
            "ListUnitsByPatterns", "asas", ((), patterns), timeout=timeout
        )
        return tuple(
            UnitStatus(
                name=name, description=text, load_state=load, active_state=active, sub_state=sub
            )
            for name, text, load, active, sub, *_ in units
        )

    async def set_properties(
        self, unit: str, properties: Sequence[UnitProperty], *, timeout: float | None = None
    ) -> None:
        """Change properties of a unit that runs, for as long as it runs."""
        array = [(p.name, variant(p.signature, p.value)) for p in properties]
        await self._call("SetUnitProperties", "sba(sv)", unit, True, array, timeout=timeout)

    async def _stopped(self, unit: str) -> str:
        """The result of systemd's job to stop a unit: `frozen` where it could not be thawed."""
        if self.version > _STOP_THAWS_UP_TO:
            await self._thaw_all(unit)
        return await self._job("StopUnit", "ss", unit, "replace")

    async def _thaw_all(self, unit: str) -> None:
        """Thaw a unit and then, since a slice is stopped with what is in it, those in there."""
        with _unless(CGROUP_GONE, FREEZE_CANCELLED, NOT_SUPPORTED, UNIT_BUSY, UNIT_INACTIVE):
            await self._call("ThawUnit", "s", unit)
        if unit.endswith(".slice"):
            for one in await self.unit_property(unit, "Unit", "RequiredBy"):
                with _unless(NO_SUCH_UNIT, FROZEN_BY_PARENT):
                    await self._thaw_all(one)

    async def _killed(self, unit: str) -> bool:
        """Kill what a unit has, and wait for its removal; return whether that came soon."""
        with contextlib.suppress(ManagerRefused, TimedOut):
            if unit.endswith(".slice") and self.version > _STOP_THAWS_UP_TO:
                # What is frozen with its slice and then dies, this systemd can neither stop nor
                # thaw: it stays as `frozen-by-parent` for ever (tried: 257).
                await self._thaw_all(unit)
            else:
                await self.freeze(unit, timeout=_FREEZE_SECONDS)
        with _unless(NO_SUCH_UNIT):
            await self.kill(unit, signal.SIGKILL)
        try:
            if unit.endswith(".slice"):
                # Which is active without a process, and no systemd since 256 stops it frozen.
                await self.stop(unit, timeout=_KILL_AGAIN_SECONDS)
            await self.wait_removed(unit, timeout=_KILL_AGAIN_SECONDS)
        except TimedOut:
            return False
        return True

    async def _seen_removed(self, unit: str) -> bool:
        """Wait for a unit's removal; False where the connection was lost meanwhile."""
        try:
            await self._systemd.subscribe()
            with self._systemd.removals.open(unit) as mailbox:
                # A systemd that executes itself anew says of all its units that they are removed.
                while await self.exists(unit):
                    await mailbox.get()
        except ConnectionLost:
            return False
        return True

    async def _start(
        self,
        unit: str,
        properties: Sequence[UnitProperty],
        others: Sequence[tuple[str, Any]],
        fds: Sequence[int],
        is_ours: Callable[[], Awaitable[bool]],
        own_slice: OwnSlice | None,
        before: Callable[[], object] | None = None,
    ) -> str:
        """The result of systemd's job to start a transient unit, and before it the slice for it."""
        array = [*_transient(properties), *others]
        slices = [(own_slice.name, _transient(own_slice.properties))] if own_slice else []
        lost = False
        while True:
            try:
                result = await self._job(
                    "StartTransientUnit",
                    "ssa(sv)a(sa(sv))",
                    unit,
                    "fail",
                    array,
                    slices,
                    fds=fds,
                    before=before,
                )
            except ManagerRefused as error:
                # Whether the unit is what was asked for before: then the answer was lost, not
                # the request.
                if not lost or error.name != UNIT_EXISTS:
                    raise
                result = await self._outcome(unit)
                if not await is_ours():
                    raise
            if result != _LOST:
                return result
            lost = True

    async def _outcome(self, unit: str) -> str:
        """What a unit shows of the result of its start, when that is over."""
        while (await self.unit_property(unit, "Unit", "Job"))[0]:
            await loop.sleep(_JOB_RETRY_SECONDS)
        state = await self.unit_property(unit, "Unit", "ActiveState")
        return "done" if state == "active" else "failed"

    async def _has(self, unit: str, pid: int) -> bool:
        """Whether a process, by its PID as the manager has it, is in a unit."""
        with _unless(NO_UNIT_FOR_PID, NO_SUCH_PROCESS):
            (path,) = await self._systemd.call("GetUnitByPID", "u", (pid,), unit=unit)
            return bool(path == unit_path(unit))
        return False

    async def _executes(self, unit: str, command: Sequence[str]) -> bool:
        """Whether this is a service's command."""
        commands = await self.unit_property(unit, "Service", "ExecStart")
        return [list(each[1]) for each in commands] == [list(command)]

    def _processes(
        self, pids: Sequence[int], pidfds: Sequence[int]
    ) -> tuple[tuple[str, Any], Sequence[int]]:
        """The property that names the processes, and the descriptors that go with it."""
        if pidfds and self.version >= _PIDFDS_SINCE:
            return ("PIDFDs", variant("ah", list(range(len(pidfds))))), pidfds
        return ("PIDs", variant("au", list(pids))), ()

    async def _job(
        self,
        member: str,
        signature: str,
        unit: str,
        *arguments: Any,
        fds: Sequence[int] = (),
        before: Callable[[], object] | None = None,
    ) -> str:
        """Call what makes a job for `unit`, wait for the job's end, and return its result.

        That is _LOST where the connection was lost, and with it what came of the call.
        """
        await self._places.acquire()
        try:
            # Opened before: the job may have ended before its path is known.
            with self._systemd.jobs.open(unit) as mailbox:
                (job,) = await self._systemd.call(
                    member,
                    signature,
                    (unit, *arguments),
                    unit=unit,
                    fds=fds,
                    once=True,
                    before=before,
                )
                while True:
                    path, result = await mailbox.get()
                    if path == job:
                        return str(result)
        except ConnectionLost:
            return _LOST
        finally:
            self._places.release()

    async def _call(
        self,
        member: str,
        signature: str,
        unit: str,
        *arguments: Any,
        timeout: float | None = None,
    ) -> list[Any]:
        """Call a method that has a unit's name as its first argument."""
        return await self._systemd.call(
            member, signature, (unit, *arguments), unit=unit, timeout=timeout
        )

    def _within(self, timeout: float | None, what: str) -> AbstractAsyncContextManager[None]:
        return loop.within(timeout or self._systemd.timeout, what)


def _transient(properties: Sequence[UnitProperty]) -> list[tuple[str, Any]]:
    # A unit that failed would stay loaded, and block its name.
    collect = ("CollectMode", variant("s", "inactive-or-failed"))
    return [*((p.name, variant(p.signature, p.value)) for p in properties), collect]


def unit_path(unit: str) -> str:
    """The object path of a unit, without asking for it.

    sd_bus_path_encode(3): what is no ASCII letter or digit, and a leading digit, as _xx.
    """
    escaped = "".join(_escaped(byte, first=not i) for i, byte in enumerate(os.fsencode(unit)))
    return f"{PATH}/unit/{escaped or '_'}"


def _escaped(byte: int, *, first: bool) -> str:
    character = chr(byte)
    plain = character.isascii() and (character.isalpha() or (character.isdigit() and not first))
    return character if plain else f"_{byte:02x}"


@contextlib.contextmanager
def _unless(*names: str) -> Iterator[None]:
    """Take a refusal by one of these names for the end of the matter."""
    try:
        yield
    except ManagerRefused as error:
        if error.name not in names:
            raise


def _hint(result: str, unit: str) -> str:
    return _JOB_HINTS.get(result, "See `journalctl -u {unit}`").format(unit=unit)
