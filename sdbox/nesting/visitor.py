"""One who has come through a nestable box's door: its requests, checked and carried out.

They are read as if the payload had written them, which it may have.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from sdbox import loop
from sdbox.errors import ManagerRefused, ManagerUnavailable, SdboxError, TimedOut
from sdbox.init import wire
from sdbox.nesting import bounds, mail
from sdbox.record import record
from sdbox.systemd.calls import NO_SUCH_UNIT

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sdbox.nesting.door import Door
    from sdbox.properties import UnitProperty

# What one of ours has under way at once is less.
_MOST_REQUESTS = 60
# Its keys are numbers.
_LONGEST_KEY = 20
# Of a list, what is sure to go in one message, where a character may take six.
_MOST_LISTED = 10
_LONGEST_DESCRIPTION = 120
_LONGEST_ERROR = 200
_LONGEST_SECONDS = 1_000_000.0
# How long one waits who does not say.
_ANSWER_SECONDS = 60.0
_READABLE = frozenset((("Unit", "ActiveState"), ("Scope", "Result"), ("Scope", "TimeoutStopUSec")))

# For the manager: who asks may have waited long enough, but as long as it has not answered, the bus
# has the call pending, of which it takes so many.
_UNTIL_ANSWERED = _LONGEST_SECONDS


FEWER = "Wait until others in this box are done, or ask for less at once"


def turn_away(sock: socket.socket) -> None:
    """Tell somebody for whom there is no place, whatever was to be asked."""
    sock.setblocking(False)
    error = ManagerUnavailable("The box around has too many connections at once", hint=FEWER)
    with contextlib.suppress(OSError):
        wire.send(sock, "", json.dumps(_error(error)))


class Visitor:
    """One connection, and what is being done for it. `uid` is the user whose it is."""

    def __init__(self, door: Door, sock: socket.socket, uid: int) -> None:
        self._door = door
        self._sock = sock
        self._uid = uid
        self._waiting: set[_Request] = set()
        sock.setblocking(False)
        loop.running().add_reader(sock.fileno(), self._on_message)

    def close(self) -> None:
        """Hang up. What the manager has been asked for is seen through."""
        if self._sock.fileno() < 0:
            return
        loop.running().remove_reader(self._sock.fileno())
        self._door.hang_up(self, self._sock.detach())
        for request in tuple(self._waiting):
            self._give_up(request)

    def _on_message(self) -> None:
        try:
            fields, fds, fit = mail.receive(self._sock)
        except OSError:
            fields, fds, fit = [], [], False
        # One of ours sends no more than this, and has fewer requests under way.
        fit = fit and len(fields) == 3 and len(fields[0]) <= _LONGEST_KEY
        fit = fit and len(self._waiting) < _MOST_REQUESTS
        if not fit or (fds and not self._door.take()):
            for fd in fds:
                self._door.dispose(fd)
            self.close()
            return
        self._ask(fields, fds)

    def _ask(self, fields: list[bytes], fds: list[int]) -> None:
        """Begin to carry a request out, of which is kept what was read, and not what was sent."""
        key, verb, arguments = fields
        try:
            request = _Request(key, verb, json.loads(arguments), fds)
            self._door.begin()
        # Whatever was asked, the job's supervisor must go on.
        except Exception as error:
            self._let_go(fds)
            self._answer(key, _error(error))
            return
        self._waiting.add(request)
        running = loop.running()
        request.task = running.create_task(self._answered(request))
        request.task.add_done_callback(lambda task: self._done(request, task))
        request.timer = running.call_later(request.seconds, self._time_out, request)

    async def _answered(self, request: _Request) -> dict[str, Any]:
        try:
            if request.verb.waits:
                return {"value": await request.carried_out(self)}
            # Of the box, and of the manager, whom the supervisor itself must be able to ask, too.
            async with _held(self._door.places), _held(self._door.manager.guests):
                request.has_begun = True
                return {"value": await request.carried_out(self)}
        except Exception as error:
            return _error(error)

    def _time_out(self, request: _Request) -> None:
        self._give_up(request)
        text = f"{request.name}: not done after {request.seconds:g} s"
        self._answer(request.key, _error(TimedOut(text)))

    def _give_up(self, request: _Request) -> None:
        """Have nobody wait any more. What the manager has not been asked for, it is not."""
        self._waiting.discard(request)
        request.timer.cancel()
        if not request.has_begun:
            request.task.cancel()

    def _done(self, request: _Request, task: asyncio.Task[dict[str, Any]]) -> None:
        self._door.end()
        self._let_go(request.fds)
        if request in self._waiting and not task.cancelled():
            self._give_up(request)
            self._answer(request.key, task.result())

    def _let_go(self, fds: list[int]) -> None:
        wire.close(fds)
        for _ in fds:
            self._door.give_back()

    def _answer(self, key: bytes, answer: dict[str, Any]) -> None:
        try:
            wire.send(self._sock, key, json.dumps(answer))
        except OSError:
            # It has hung up, or does not listen.
            self.close()

    async def _hello(self) -> dict[str, Any]:
        door = self._door
        return {
            "version": door.manager.version,
            "cgroup_root": door.endpoint.cgroup_root,
            "slice": door.slice,
            "prefix": door.prefix,
        }

    async def _start(self, request: bounds.Start, pidfd: int) -> None:
        """Start a scope with the process whose descriptor has come."""
        door = self._door
        bounds.check_start(request, prefix=door.prefix, slices=door.slices(self._uid))
        await door.start(request, self._uid, pidfd, timeout=_UNTIL_ANSWERED)

    def _checked(self, unit: str) -> str | None:
        """Return a unit that this client may manage, or None where it has gone."""
        door = self._door
        inside = door.known.get(unit)
        if inside is None:
            bounds.job_of(unit, door.prefix)
            return None
        if self._uid not in (0, inside.uid):
            raise bounds.refusal(f"{unit} of another user")
        return unit if door.is_there(unit) else None

    def _living(self, unit: str) -> str:
        name = self._checked(unit)
        if name is None:
            raise ManagerRefused(f"{unit}: there is no such unit", name=NO_SUCH_UNIT)
        return name

    async def _stop(self, unit: str) -> None:
        await self._end(unit, self._door.manager.stop)

    async def _destroy(self, unit: str) -> None:
        await self._end(unit, self._door.manager.destroy)

    async def _end(self, unit: str, end: Callable[..., Awaitable[None]]) -> None:
        name = self._checked(unit)
        if name is not None:
            await end(name, timeout=_UNTIL_ANSWERED)
        elif unit in self._door.known:
            # systemd forgets a unit a moment after its cgroup.
            await self._door.manager.wait_removed(unit, timeout=_UNTIL_ANSWERED)

    async def _freeze(self, unit: str) -> None:
        await self._door.manager.freeze(self._living(unit), timeout=_UNTIL_ANSWERED)

    async def _thaw(self, unit: str) -> None:
        name = self._living(unit)
        self._door.refuse_frozen_above(name)
        await self._door.manager.thaw(name, timeout=_UNTIL_ANSWERED)

    async def _kill(self, unit: str, number: int) -> None:
        await self._door.manager.kill(self._living(unit), number, timeout=_UNTIL_ANSWERED)

    async def _removed(self, unit: str) -> None:
        self._checked(unit)
        if unit in self._door.known:
            await self._door.manager.wait_removed(unit, timeout=_UNTIL_ANSWERED)

    async def _exists(self, unit: str) -> bool:
        self._checked(unit)
        manager = self._door.manager
        return unit in self._door.known and await manager.exists(unit, timeout=_UNTIL_ANSWERED)

    async def _property(self, unit: str, interface: str, name: str) -> Any:
        self._checked(unit)
        if (interface, name) not in _READABLE:
            raise bounds.refusal(f"property {interface}.{name}")
        manager = self._door.manager
        return await manager.unit_property(unit, interface, name, timeout=_UNTIL_ANSWERED)

    async def _set(self, unit: str, properties: tuple[UnitProperty, ...]) -> None:
        manager = self._door.manager
        await manager.set_properties(self._living(unit), properties, timeout=_UNTIL_ANSWERED)

    async def _list(self, first: int) -> list[list[str]]:
        pattern = f"sdbox-{self._door.prefix}*.scope"
        units = await self._door.manager.list_units(pattern, timeout=_UNTIL_ANSWERED)
        known = sorted((u for u in units if u.name in self._door.known), key=lambda u: u.name)
        return [
            [u.name, _shortened(u.description), u.load_state, u.active_state, u.sub_state]
            for u in known[first : first + _MOST_LISTED]
        ]


class _Request:
    """What is asked for, and how far it has got. `has_begun`: the manager may have been asked."""

    __slots__ = (
        *("arguments", "fds", "has_begun", "key", "name", "seconds", "task", "timer", "verb"),
    )

    task: asyncio.Task[dict[str, Any]]
    timer: asyncio.TimerHandle

    def __init__(self, key: bytes, name: bytes, arguments: Any, fds: list[int]) -> None:
        """Read it. Raises ManagerRefused."""
        if name not in _VERBS:
            raise bounds.refusal(repr(name)[:80])
        self.key = key
        self.name = name.decode()
        self.verb = _VERBS[name]
        self.seconds = _ANSWER_SECONDS
        if self.verb.timed:
            *arguments, seconds = arguments
            self.seconds = _seconds(seconds)
        self.arguments = self.verb.read(arguments)
        self.fds = fds
        self.has_begun = False

    async def carried_out(self, visitor: Visitor) -> Any:
        """Carry it out, and return what comes of it."""
        return await self.verb.carry_out(visitor, *self.arguments, *self.fds)


@record
class _Verb:
    """What is asked for by one word: how it is carried out, and how its arguments are read.

    `timed`: there is one more, for how long who asks will wait. `waits`: meanwhile the manager is
    asked for nothing.
    """

    carry_out: Callable[..., Awaitable[Any]]
    read: Callable[[Any], list[Any]]
    timed: bool = False
    waits: bool = False


def _each(*readers: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """Have each argument read by one of these."""

    def read(given: Any) -> list[Any]:
        values = bounds.fields(given, len(readers))
        return [reader(value) for reader, value in zip(readers, values, strict=True)]

    return read


def _start_alone(given: Any) -> list[Any]:
    return [bounds.read_start(given)]


_UNIT = _each(bounds.text)
_VERBS: dict[bytes, _Verb] = {
    b"hello": _Verb(carry_out=Visitor._hello, read=_each(), waits=True),
    b"start": _Verb(carry_out=Visitor._start, read=_start_alone),
    b"stop": _Verb(carry_out=Visitor._stop, read=_UNIT, timed=True),
    b"destroy": _Verb(carry_out=Visitor._destroy, read=_UNIT, timed=True),
    b"freeze": _Verb(carry_out=Visitor._freeze, read=_UNIT, timed=True),
    b"thaw": _Verb(carry_out=Visitor._thaw, read=_UNIT, timed=True),
    b"kill": _Verb(
        carry_out=Visitor._kill, read=_each(bounds.text, bounds.signal_number), timed=True
    ),
    b"removed": _Verb(carry_out=Visitor._removed, read=_UNIT, timed=True, waits=True),
    b"exists": _Verb(carry_out=Visitor._exists, read=_UNIT),
    b"property": _Verb(
        carry_out=Visitor._property, read=_each(bounds.text, bounds.text, bounds.text)
    ),
    b"set": _Verb(carry_out=Visitor._set, read=_each(bounds.text, bounds.read_properties)),
    b"list": _Verb(carry_out=Visitor._list, read=_each(bounds.number)),
}


@contextlib.asynccontextmanager
async def _held(places: loop.Semaphore) -> AsyncIterator[None]:
    await places.acquire()
    try:
        yield
    finally:
        places.release()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_DESCRIPTION else text[: _LONGEST_DESCRIPTION - 1] + "…"


def _seconds(value: Any) -> float:
    if value is None:
        return _ANSWER_SECONDS
    if type(value) not in (int, float) or not value > 0:
        raise bounds.refusal("a time-out")
    return float(min(value, _LONGEST_SECONDS))


def _error(error: Exception) -> dict[str, Any]:
    if not isinstance(error, SdboxError):
        error = ManagerRefused(f"{error!r}"[:_LONGEST_ERROR], name=bounds.NOT_ALLOWED)
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "name": getattr(error, "name", ""),
    }
