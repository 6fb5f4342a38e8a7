"""systemd's manager, over D-Bus: scopes and what can be done to them, by systemd's version."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from typing import TYPE_CHECKING, Any

from sdbox.bus import Bus, Match, variant, within
from sdbox.errors import LaunchFailed, ManagerRefused, ManagerUnavailable, TimedOut
from sdbox.record import record

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from sdbox.errors import SdboxError
    from sdbox.translate import UnitProperty

SYSTEMD = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_INTERFACE = f"{SYSTEMD}.Manager"
_ERROR = "org.freedesktop.DBus.Error"

# Versions of systemd, from its sources at the tags.
MINIMUM_VERSION = 249
_PIDFDS_SINCE = 255
_STOP_THAWS_UP_TO = 255

# How long killing waits for a freeze: a task in uninterruptible sleep never freezes, and SIGKILL
# takes the others anyway.
_FREEZE_SECONDS = 2.0

_JOB_HINTS = {
    "canceled": "Another request for the unit, such as systemctl stop, replaced it",
    "timeout": "systemd gave up waiting; see `systemctl list-jobs`",
    "failed": "See `journalctl -u {unit}`",
    "dependency": "A unit that it depends on, such as its slice, did not start",
    "skipped": "systemd had no need to run it",
    "frozen": "Its slice or the unit itself is frozen: thaw it first",
    "collected": "systemd unloaded the unit before it started",
}

_UNIT_EXISTS = f"{SYSTEMD}.UnitExists"
_NO_SUCH_UNIT = f"{SYSTEMD}.NoSuchUnit"
_UNIT_INACTIVE = f"{SYSTEMD}.UnitInactive"
_NOT_SUPPORTED = f"{_ERROR}.NotSupported"
# What systemd itself has for a job that failed, where it answers for one.
_JOB_FAILED = f"{SYSTEMD}.JobFailed"

_HINTS = {
    _UNIT_EXISTS: "Choose another id, or clear a failed one with `systemctl reset-failed {unit}`",
    _NO_SUCH_UNIT: "It has ended, or never was; see `systemctl list-units 'sdbox-*'`",
    f"{SYSTEMD}.NoSuchProcess": "The process has ended before it could be put into its unit",
    _UNIT_INACTIVE: "It has ended, or is about to",
    f"{SYSTEMD}.UnitBusy": "A job of systemd's is at work on it; try again when that is done",
    f"{SYSTEMD}.FrozenByParent": "A slice above it is frozen: thaw that one",
    f"{_ERROR}.PropertyReadOnly": (
        "systemd {version} does not take that property for a scope; a newer one may"
    ),
    f"{_ERROR}.AccessDenied": "Run it as root",
    f"{_ERROR}.InteractiveAuthorizationRequired": "Run it as root",
    f"{_ERROR}.LimitsExceeded": (
        "Too many connections or calls at once: raise the bus's limits, or start fewer jobs"
    ),
    _NOT_SUPPORTED: "The unified cgroup hierarchy and its cgroup.freeze are needed",
}

# What the bus itself answers when systemd is not there, or left before it replied.
_MANAGER_GONE = frozenset(
    f"{_ERROR}.{name}" for name in ("NoReply", "ServiceUnknown", "NameHasNoOwner", "Disconnected")
)


@record
class UnitStatus:
    """One line of list_units(); the states are systemd's own words."""

    name: str
    description: str
    load_state: str
    active_state: str
    sub_state: str


class Manager:
    """One systemd manager. Made by connect() or connect_socket(); `version` is such as 257.

    Every verb raises ManagerRefused, ManagerUnavailable or TimedOut. `timeout`, in seconds, holds
    for one verb; without one it is that of the connection. The unit of a verb is a full name.
    """

    def __init__(self, bus: Bus, *, timeout: float, only: str | None = None) -> None:
        self.bus = bus
        self.version = 0
        self._timeout = timeout
        self._only = only
        self._subscribing = asyncio.Lock()
        self._subscribed = False
        self._jobs = _Mailboxes()
        self._removals = _Mailboxes()
        bus.closed.add_done_callback(self._lost)

    @classmethod
    async def connect(cls, address: str, *, timeout: float, only: str | None = None) -> Manager:
        """Connect through the bus at `address`.

        With `only`, the name of a unit, no signals about other units are received: a supervisor
        of one job is not to be woken for every job of the machine.
        """
        bus = await Bus.connect(address, timeout=timeout)
        return await cls._on(bus, timeout, only)

    @classmethod
    async def connect_socket(
        cls, sock: socket.socket, *, timeout: float, only: str | None = None
    ) -> Manager:
        """As connect(), over a connected socket, which is taken over."""
        bus = await Bus.connect_socket(sock, timeout=timeout)
        return await cls._on(bus, timeout, only)

    @classmethod
    async def _on(cls, bus: Bus, timeout: float, only: str | None) -> Manager:
        manager = cls(bus, timeout=timeout, only=only)
        try:
            await manager._prepare()
        except BaseException:
            await bus.close()
            raise
        return manager

    async def close(self) -> None:
        """Close the connection. Units live on."""
        await self.bus.close()

    async def start_scope(
        self,
        unit: str,
        properties: Sequence[UnitProperty],
        *,
        pids: Sequence[int],
        pidfds: Sequence[int] = (),
        timeout: float | None = None,
    ) -> None:
        """Start a transient scope with these processes in it; return when its job is done.

        `pids` are as the manager's PID namespace has them; `pidfds`, of the same processes, are
        used instead where systemd takes them (255). LaunchFailed when systemd could not start
        it. After TimedOut or a cancellation the scope may still come to be, while its processes
        live. That they are in it is not verified here: see systemd issue 36781.
        """
        processes, fds = self._processes(pids, pidfds)
        array = [(p.name, variant(p.signature, p.value)) for p in properties]
        # A scope that failed would stay loaded, and block its name.
        array += [("CollectMode", variant("s", "inactive-or-failed")), processes]
        async with self._within(timeout, f"starting {unit}"):
            result = await self._job(
                "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", array, (), fds=fds
            )
        if result != "done":
            raise LaunchFailed(f"{unit}: systemd's job ended as {result}", hint=_hint(result, unit))

    async def stop(self, unit: str, *, timeout: float | None = None) -> None:
        """Stop a unit as its properties say; return when systemd is done, or it is gone already.

        A frozen unit is thawed, so that its processes can act on the signal.
        """
        async with self._within(timeout, f"stopping {unit}"):
            if self.version > _STOP_THAWS_UP_TO:
                with _unless(_NO_SUCH_UNIT, _UNIT_INACTIVE, _NOT_SUPPORTED):
                    await self._call("ThawUnit", "s", unit)
            with _unless(_NO_SUCH_UNIT):
                result = await self._job("StopUnit", "ss", unit, "replace")
                if result != "done":
                    text = f"{unit}: systemd's job to stop it ended as {result}"
                    raise ManagerRefused(text, name=_JOB_FAILED, hint=_hint(result, unit))

    async def destroy(self, unit: str, *, timeout: float | None = None) -> None:
        """SIGKILL all processes of a unit; return when systemd has unloaded it.

        Frozen before, because KillUnit signals one process after the other, and what forks
        meanwhile could get away. Nothing happens where there is no such unit.
        """
        async with self._within(timeout, f"killing {unit}"):
            with contextlib.suppress(ManagerRefused, TimedOut):
                await self.freeze(unit, timeout=_FREEZE_SECONDS)
            with _unless(_NO_SUCH_UNIT):
                await self.kill(unit, signal.SIGKILL)
            await self.wait_removed(unit, timeout=timeout)

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
            await self._subscribe()
            with self._removals.open(unit) as mailbox:
                if await self.exists(unit):
                    await mailbox.get()

    async def exists(self, unit: str, *, timeout: float | None = None) -> bool:
        """Whether systemd has a unit of that name loaded."""
        try:
            await self._call("GetUnit", "s", unit, timeout=timeout)
        except ManagerRefused as error:
            if error.name != _NO_SUCH_UNIT:
                raise
            return False
        return True

    async def unit_property(
        self, unit: str, interface: str, name: str, *, timeout: float | None = None
    ) -> Any:
        """A property of a unit, such as `"Scope", "ControlGroup"` or `"Unit", "ActiveState"`.

        systemd makes up a unit that it doesn't have: ActiveState `inactive`, the rest empty.
        """
        return await self._get(unit_path(unit), f"{SYSTEMD}.{interface}", name, timeout)

    async def scope_result(self, unit: str, *, timeout: float | None = None) -> str:
        """A scope's Result: success, resources, timeout or oom-kill."""
        result: str = await self.unit_property(unit, "Scope", "Result", timeout=timeout)
        return result

    async def list_units(
        self, pattern: str, *, timeout: float | None = None
    ) -> tuple[UnitStatus, ...]:
        """Loaded units whose name matches a shell pattern."""
        (units,) = await self._manager("ListUnitsByPatterns", "asas", ((), (pattern,)), timeout)
        return tuple(
            UnitStatus(
                name=name, description=text, load_state=load, active_state=active, sub_state=sub
            )
            for name, text, load, active, sub, *_ in units
        )

    async def _prepare(self) -> None:
        """Have signals about jobs sent, and learn the version."""
        # At once: the bus handles them in this order. The manager sends the signals about jobs
        # that we have asked for even if nobody subscribed.
        _, version = await asyncio.gather(
            self.bus.add_match(
                self._match("JobRemoved", 2), self._job_removed, timeout=self._timeout
            ),
            self._get(_PATH, _INTERFACE, "Version", None),
        )
        self.version = version_number(version)
        if self.version < MINIMUM_VERSION:
            raise ManagerUnavailable(
                f"systemd {version} is too old", hint=f"{MINIMUM_VERSION} or newer is needed"
            )

    async def _subscribe(self) -> None:
        """Have signals about removed units sent, too: once, and not before they are needed.

        From then on PID 1 tells the bus of every change of every unit, which costs a fifth more
        for each launch (tried).
        """
        async with self._subscribing:
            if not self._subscribed:
                await asyncio.gather(
                    self.bus.add_match(
                        self._match("UnitRemoved", 0), self._unit_removed, timeout=self._timeout
                    ),
                    self._manager("Subscribe", "", (), None),
                )
                self._subscribed = True

    def _match(self, member: str, position: int) -> Match:
        """A signal of the manager, which has the unit's name as its argument at `position`."""
        return Match(
            sender=SYSTEMD,
            path=_PATH,
            interface=_INTERFACE,
            member=member,
            arguments=() if self._only is None else ((position, self._only),),
        )

    def _processes(
        self, pids: Sequence[int], pidfds: Sequence[int]
    ) -> tuple[tuple[str, Any], Sequence[int]]:
        """The property that names the processes, and the descriptors that go with it."""
        if pidfds and self.version >= _PIDFDS_SINCE:
            return ("PIDFDs", variant("ah", range(len(pidfds)))), pidfds
        return ("PIDs", variant("au", pids)), ()

    async def _job(
        self, member: str, signature: str, unit: str, *arguments: Any, fds: Sequence[int] = ()
    ) -> str:
        """Call what makes a job for `unit`, wait for the job's end, and return its result."""
        # Opened before: the job may have ended before its path is known.
        with self._jobs.open(unit) as mailbox:
            (job,) = await self._call(member, signature, unit, *arguments, fds=fds)
            while True:
                path, result = await mailbox.get()
                if path == job:
                    return str(result)

    async def _call(
        self,
        member: str,
        signature: str,
        unit: str,
        *arguments: Any,
        fds: Sequence[int] = (),
        timeout: float | None = None,
    ) -> list[Any]:
        try:
            return await self._manager(member, signature, (unit, *arguments), timeout, fds)
        except ManagerRefused as error:
            raise self._explained(error, unit) from error

    async def _manager(
        self,
        member: str,
        signature: str,
        body: Sequence[Any],
        timeout: float | None,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        return await self.bus.call(
            destination=SYSTEMD,
            path=_PATH,
            interface=_INTERFACE,
            member=member,
            signature=signature,
            body=body,
            fds=fds,
            timeout=timeout or self._timeout,
        )

    async def _get(self, path: str, interface: str, name: str, timeout: float | None) -> Any:
        (value,) = await self.bus.call(
            destination=SYSTEMD,
            path=path,
            interface="org.freedesktop.DBus.Properties",
            member="Get",
            signature="ss",
            body=(interface, name),
            timeout=timeout or self._timeout,
        )
        return value.value

    def _within(self, timeout: float | None, what: str) -> AbstractAsyncContextManager[None]:
        return within(timeout or self._timeout, what)

    def _explained(self, error: ManagerRefused, unit: str) -> SdboxError:
        text = f"{unit}: {error.message}"
        if error.name in _MANAGER_GONE:
            return ManagerUnavailable(text, hint="See whether systemd still runs")
        hint = _HINTS.get(error.name, "").format(unit=unit, version=self.version)
        return ManagerRefused(text, name=error.name, hint=hint)

    def _job_removed(self, body: list[Any]) -> None:
        _, path, unit, result = body
        self._jobs.put(unit, (path, result))

    def _unit_removed(self, body: list[Any]) -> None:
        self._removals.put(body[0], None)

    def _lost(self, _: object) -> None:
        self._jobs.lose(self.bus.unavailable)
        self._removals.lose(self.bus.unavailable)


class _Mailbox:
    """What came for one who waits, in order, from before it began to wait."""

    def __init__(self) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        self._items.put_nowait(item)

    async def get(self) -> Any:
        item = await self._items.get()
        if isinstance(item, Exception):
            raise item
        return item


class _Mailboxes:
    """Signals for those who wait for one, by the unit that it is about."""

    def __init__(self) -> None:
        self._by_unit: dict[str, list[_Mailbox]] = {}

    @contextlib.contextmanager
    def open(self, unit: str) -> Iterator[_Mailbox]:
        mailbox = _Mailbox()
        mailboxes = self._by_unit.setdefault(unit, [])
        mailboxes.append(mailbox)
        try:
            yield mailbox
        finally:
            mailboxes.remove(mailbox)
            if not mailboxes:
                del self._by_unit[unit]

    def put(self, unit: str, item: Any) -> None:
        for mailbox in self._by_unit.get(unit, ()):
            mailbox.put(item)

    def lose(self, error: Callable[[], Exception]) -> None:
        """Have all who wait raise, each an error of its own."""
        for mailboxes in self._by_unit.values():
            for mailbox in mailboxes:
                mailbox.put(error())


def unit_path(unit: str) -> str:
    """The object path of a unit, without asking for it.

    sd_bus_path_encode(3): what is no ASCII letter or digit, and a leading digit, as _xx.
    """
    escaped = "".join(_escaped(byte, first=not i) for i, byte in enumerate(os.fsencode(unit)))
    return f"{_PATH}/unit/{escaped or '_'}"


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


def version_number(version: str) -> int:
    """The major version in such as `252.38-1~deb12u1`."""
    digits = itertools.takewhile(str.isdigit, version.removeprefix("v"))
    return int("".join(digits) or 0)
