"""systemd as a peer on the bus: calls, the signals that are waited for, errors with a remedy."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from sdbox import loop
from sdbox.bus import LIMITS_EXCEEDED, Match
from sdbox.errors import ConnectionLost, ManagerRefused, ManagerUnavailable, TimedOut
from sdbox.systemd.line import Line, is_full, pauses

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from sdbox.bus import Bus
    from sdbox.errors import SdboxError
    from sdbox.systemd.line import Dial

SYSTEMD = "org.freedesktop.systemd1"
PATH = "/org/freedesktop/systemd1"
INTERFACE = f"{SYSTEMD}.Manager"
_BUS = "org.freedesktop.DBus"
_ERROR = f"{_BUS}.Error"

UNIT_EXISTS = f"{SYSTEMD}.UnitExists"
NO_SUCH_UNIT = f"{SYSTEMD}.NoSuchUnit"
UNIT_INACTIVE = f"{SYSTEMD}.UnitInactive"
UNIT_BUSY = f"{SYSTEMD}.UnitBusy"
# What a freeze or a thaw that was under way is answered when another takes its place.
FREEZE_CANCELLED = f"{SYSTEMD}.FreezeCancelled"
FROZEN_BY_PARENT = f"{SYSTEMD}.FrozenByParent"
# What a freeze or a thaw is answered of which systemd still believes that it has a cgroup.
CGROUP_GONE = "System.Error.ENODATA"
NO_UNIT_FOR_PID = f"{SYSTEMD}.NoUnitForPID"
NO_SUCH_PROCESS = f"{SYSTEMD}.NoSuchProcess"
_ALREADY_SUBSCRIBED = f"{SYSTEMD}.AlreadySubscribed"
NOT_REFERENCED = f"{SYSTEMD}.NotReferenced"
NOT_SUPPORTED = f"{_ERROR}.NotSupported"
# What systemd itself has for a job that failed, where it answers for one.
JOB_FAILED = f"{SYSTEMD}.JobFailed"

_HINTS = {
    UNIT_EXISTS: "Choose another id, or clear a failed one with `systemctl reset-failed {unit}`",
    NO_SUCH_UNIT: "It has ended, or never was; see `systemctl list-units 'sdbox-*'`",
    NO_SUCH_PROCESS: "The process has ended before it could be put into its unit",
    UNIT_INACTIVE: "It has ended, or is about to",
    UNIT_BUSY: "It is being frozen or thawed; try again when that is done",
    FREEZE_CANCELLED: "It has ended, or somebody else has had it frozen or thawed meanwhile",
    CGROUP_GONE: "It has ended, or is about to",
    FROZEN_BY_PARENT: "A slice above it is frozen: thaw that one",
    f"{_ERROR}.PropertyReadOnly": (
        "systemd {version} does not take that property for a scope; a newer one may"
    ),
    f"{_ERROR}.AccessDenied": "Run it as root",
    f"{_ERROR}.InteractiveAuthorizationRequired": "Run it as root",
    LIMITS_EXCEEDED: (
        "Too many connections or calls at once: raise the bus's limits, or start fewer jobs"
    ),
    NOT_SUPPORTED: "The unified cgroup hierarchy and its cgroup.freeze are needed",
}

# What the bus itself answers when systemd is not there, or left before it replied. Replies that
# it owes it sends before it leaves to execute itself anew, so such a call was not carried out.
_GONE = frozenset(
    f"{_ERROR}.{name}"
    for name in (
        "NoReply",
        "ServiceUnknown",
        "NameHasNoOwner",
        "Disconnected",
        # The bus tried to start it, by the `Exec=/bin/false` of its service file.
        "Spawn.ChildExited",
    )
)
# Properties and signals that sdbox uses, from systemd's sources at the tags.
MINIMUM_VERSION = 249
# How long systemd may take to execute itself anew: a large one has much to read and write.
_RETURN_SECONDS = 30.0
# How long it may take at boot from starting the bus to being on it. A bus may have no systemd.
_APPEAR_SECONDS = 5.0


class Systemd:
    """systemd's side of a connection, or of one after the other. `version` is 0 before open().

    `direct` says that there is no bus, which could keep a unit for us.

    `jobs` has what came of jobs, (object path, result) by unit; `removals` the units that are no
    more, after subscribe(). With `only`, no signals about other units than that one come. Who
    waits for one when the connection is lost gets ConnectionLost: it may have been missed.
    """

    def __init__(self, dial: Dial, *, timeout: float, only: str | None) -> None:
        self._line = Line(dial, greet=self._greet, on_lost=self._lost)
        self.version = 0
        self.direct = False
        self.timeout = timeout
        self.jobs = Mailboxes()
        self.removals = Mailboxes()
        self._owners = Mailboxes()
        self._only = only
        self._subscription: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect. Raises ManagerUnavailable, ManagerRefused and TimedOut."""
        await self._line.open()

    async def close(self) -> None:
        """Close the connection, for good."""
        await self._line.close()

    async def call(
        self,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        unit: str = "systemd",
        fds: Sequence[int] = (),
        timeout: float | None = None,
        once: bool = False,
        before: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Call a method of the manager. Errors are about `unit`, and have a remedy.

        When the connection is lost meanwhile the call is made again, unless it is for `once`:
        then ConnectionLost is raised. `before` is as in Bus.call().
        """
        while True:
            try:
                return await self._ask(
                    await self._line.bus(),
                    PATH,
                    INTERFACE,
                    member,
                    signature,
                    body,
                    unit=unit,
                    fds=fds,
                    timeout=timeout,
                    before=before,
                )
            except ConnectionLost:
                if once:
                    raise

    async def get(self, path: str, interface: str, name: str, timeout: float | None = None) -> Any:
        """A property of an object of systemd's."""
        while True:
            with contextlib.suppress(ConnectionLost):
                return await self._get(await self._line.bus(), path, interface, name, timeout)

    async def _get(
        self, bus: Bus, path: str, interface: str, name: str, timeout: float | None = None
    ) -> Any:
        body = (interface, name)
        (value,) = await self._ask(
            bus, path, f"{_BUS}.Properties", "Get", "ss", body, unit=name, timeout=timeout
        )
        return value.value

    async def _greet(self, bus: Bus) -> None:
        """Have signals about jobs sent, and learn the version; both at once.

        Those of our own jobs come even if nobody subscribes.
        """
        match = self._match("JobRemoved", 2)
        _, version = await loop.gather(
            bus.add_match(match, self._job_removed, timeout=self.timeout),
            self._get(bus, PATH, INTERFACE, "Version"),
        )
        self.version, self.direct = version_number(version), bus.direct
        if self.version < MINIMUM_VERSION:
            raise ManagerUnavailable(
                f"systemd {version} is too old", hint=f"{MINIMUM_VERSION} or newer is needed"
            )

    async def subscribe(self) -> None:
        """Have signals about removed units sent, too: once, and not before they are needed.

        From then on PID 1 tells the bus of every change of every unit, which costs a fifth more
        for each launch (tried).
        """
        if self._subscription is None:
            self._subscription = loop.running().create_task(self._subscribe())
        # A caller that is cancelled leaves what it asked for in force.
        await loop.shield(self._subscription)

    async def _subscribe(self) -> None:
        try:
            bus, match = await self._line.bus(), self._match("UnitRemoved", 0)
            await loop.gather(
                bus.add_match(match, self._unit_removed, timeout=self.timeout),
                self._subscribe_on(bus),
            )
        except BaseException:
            # The next who needs it tries again.
            self._subscription = None
            raise

    async def _subscribe_on(self, bus: Bus) -> None:
        try:
            await self._ask(bus, PATH, INTERFACE, "Subscribe", unit="systemd")
        except ManagerRefused as error:
            # A bus that was restarted gives names anew that systemd knows from before.
            if error.name != _ALREADY_SUBSCRIBED:
                raise

    async def _ask(
        self,
        bus: Bus,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        unit: str,
        fds: Sequence[int] = (),
        timeout: float | None = None,
        before: Callable[[], object] | None = None,
    ) -> list[Any]:
        timeout = timeout or self.timeout
        end, pause = time.monotonic() + timeout, pauses()
        while True:
            try:
                return await bus.call(
                    destination=SYSTEMD,
                    path=path,
                    interface=interface,
                    member=member,
                    signature=signature,
                    body=body,
                    fds=fds,
                    timeout=timeout,
                    before=before,
                )
            except ManagerRefused as error:
                if is_full(error) and time.monotonic() < end:
                    await loop.sleep(next(pause))
                elif error.name not in _GONE or not await self._returned(bus):
                    raise self._explained(error, unit) from error

    async def _returned(self, bus: Bus) -> bool:
        """Whether systemd comes (back) to the bus: it boots, or executes itself anew."""
        match = Match(
            sender=_BUS,
            path="/org/freedesktop/DBus",
            interface=_BUS,
            member="NameOwnerChanged",
            arguments=((0, SYSTEMD),),
        )
        await bus.add_match(match, self._owner_changed, timeout=self.timeout)
        try:
            async with loop.within(_RETURN_SECONDS if self.version else _APPEAR_SECONDS, "return"):
                with self._owners.open(SYSTEMD) as mailbox:
                    bus.closed.add_done_callback(lambda _: mailbox.put(bus.unavailable()))
                    while not await self._present(bus):
                        await mailbox.get()
        except TimedOut:
            return False
        finally:
            await bus.remove_match(match, self._owner_changed, timeout=self.timeout)
        return True

    async def _present(self, bus: Bus) -> bool:
        (present,) = await bus.call(
            destination=_BUS,
            path="/org/freedesktop/DBus",
            interface=_BUS,
            member="NameHasOwner",
            signature="s",
            body=(SYSTEMD,),
            timeout=self.timeout,
        )
        return bool(present)

    def _match(self, member: str, position: int) -> Match:
        """A signal of the manager, which has the unit's name as its argument at `position`."""
        return Match(
            sender=SYSTEMD,
            path=PATH,
            interface=INTERFACE,
            member=member,
            arguments=() if self._only is None else ((position, self._only),),
        )

    def _explained(self, error: ManagerRefused, unit: str) -> SdboxError:
        text = f"{unit}: {error.message}"
        if error.name in _GONE:
            return ManagerUnavailable(text, hint="See whether systemd runs, as its own PID 1")
        hint = _HINTS.get(error.name, "").format(unit=unit, version=self.version)
        return ManagerRefused(text, name=error.name, hint=hint)

    def _job_removed(self, body: list[Any]) -> None:
        _, path, unit, result = body
        self.jobs.put(unit, (path, result))

    def _unit_removed(self, body: list[Any]) -> None:
        self.removals.put(body[0], None)

    def _owner_changed(self, body: list[Any]) -> None:
        self._owners.put(body[0], None)

    def _lost(self, bus: Bus) -> None:
        self._subscription = None
        for mailboxes in (self.jobs, self.removals):
            mailboxes.lose(bus.unavailable)


class Mailbox:
    """What came for one who waits, in order, from before it began to wait."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._came: asyncio.Future[None] | None = None

    def put(self, item: Any) -> None:
        """Add an item; an exception is one that get() raises."""
        self._items.append(item)
        if self._came is not None:
            loop.settle(self._came)

    async def get(self) -> Any:
        """Wait for the next item."""
        while not self._items:
            self._came = loop.running().create_future()
            await self._came
        item = self._items.popleft()
        if isinstance(item, Exception):
            raise item
        return item


class Mailboxes:
    """Signals for those who wait for one, by the unit that it is about."""

    def __init__(self) -> None:
        self._by_unit: dict[str, list[Mailbox]] = {}

    @contextlib.contextmanager
    def open(self, unit: str) -> Iterator[Mailbox]:
        """A mailbox for what comes about `unit` from now on."""
        mailbox = Mailbox()
        mailboxes = self._by_unit.setdefault(unit, [])
        mailboxes.append(mailbox)
        try:
            yield mailbox
        finally:
            mailboxes.remove(mailbox)
            if not mailboxes:
                del self._by_unit[unit]

    def put(self, unit: str, item: Any) -> None:
        """Give an item to all who wait for `unit`."""
        for mailbox in self._by_unit.get(unit, ()):
            mailbox.put(item)

    def lose(self, error: Callable[[], Exception]) -> None:
        """Have all who wait raise, each an error of its own."""
        for mailboxes in self._by_unit.values():
            for mailbox in mailboxes:
                mailbox.put(error())


def version_number(version: str) -> int:
    """The major version in such as `252.38-1~deb12u1`."""
    digits = itertools.takewhile(str.isdigit, version.removeprefix("v"))
    return int("".join(digits) or 0)
