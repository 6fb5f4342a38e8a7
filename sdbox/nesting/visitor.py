"""One who has come through a nestable box's door: its requests, checked and carried out.

They are read as if the payload had written them, which it may have.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from sdbox import loop
from sdbox.errors import ManagerRefused, SdboxError
from sdbox.init import wire
from sdbox.nesting import bounds, mail
from sdbox.systemd.peer import NO_SUCH_UNIT

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sdbox.nesting.door import Door

# What one of ours has under way at once is less.
_MOST_REQUESTS = 60
# Of a list, what is sure to go in one message, where a character may take six.
_MOST_LISTED = 10
_LONGEST_DESCRIPTION = 120
_LONGEST_SECONDS = 1_000_000.0
_READABLE = frozenset((("Unit", "ActiveState"), ("Scope", "Result"), ("Scope", "TimeoutStopUSec")))


class Visitor:
    """One connection, and what is being done for it. `uid` is the user whose it is."""

    def __init__(self, door: Door, sock: socket.socket, uid: int) -> None:
        self._door = door
        self._sock = sock
        self._uid = uid
        self._tasks: set[asyncio.Task[None]] = set()
        sock.setblocking(False)
        loop.running().add_reader(sock.fileno(), self._on_message)

    def close(self) -> None:
        """Hang up; nobody waits for what is being done, which is not what is being started."""
        if self._sock.fileno() < 0:
            return
        loop.running().remove_reader(self._sock.fileno())
        self._door.hang_up(self, self._sock.detach())
        for task in self._tasks:
            task.cancel()

    def _on_message(self) -> None:
        try:
            fields, fds, fit = mail.receive(self._sock)
        except OSError:
            fields, fds, fit = [], [], False
        # One of ours sends no more than this, and has fewer requests under way.
        fit = fit and len(fields) == 3 and len(self._tasks) < _MOST_REQUESTS
        if not fit or (fds and not self._door.take()):
            for fd in fds:
                self._door.dispose(fd)
            self.close()
            return
        task = loop.running().create_task(self._serve(fields, fds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Also for one that is given up before it has begun.
        task.add_done_callback(lambda _: self._let_go(fds))

    def _let_go(self, fds: list[int]) -> None:
        wire.close(fds)
        for _ in fds:
            self._door.give_back()

    async def _serve(self, fields: list[bytes], fds: list[int]) -> None:
        key, verb, arguments = fields
        if verb in _WAITING:
            self._answer(key, await self._answered(verb, arguments, fds))
            return
        # Of the box, and of the manager, whom the supervisor itself must be able to ask as well.
        async with _held(self._door.places), _held(self._door.manager.guests):
            answer = await self._answered(verb, arguments, fds)
        self._answer(key, answer)

    async def _answered(self, verb: bytes, arguments: bytes, fds: list[int]) -> dict[str, Any]:
        try:
            return await self._carried_out(verb, json.loads(arguments), fds)
        except SdboxError as error:
            return _error(error)
        # Whatever was asked, the job's supervisor must go on.
        except Exception as error:
            return _error(ManagerRefused(f"{error!r}", name=bounds.NOT_ALLOWED))

    def _answer(self, key: bytes, answer: dict[str, Any]) -> None:
        try:
            wire.send(self._sock, key, json.dumps(answer))
        except OSError:
            # It has hung up, or does not listen.
            self.close()

    async def _carried_out(self, verb: bytes, arguments: Any, fds: list[int]) -> dict[str, Any]:
        if verb == b"start":
            await self._start(arguments, *fds)
            return {"value": None}
        if verb not in _VERBS:
            raise bounds.refusal(repr(verb)[:80])
        return {"value": await _VERBS[verb](self, *arguments)}

    async def _hello(self) -> dict[str, Any]:
        door = self._door
        return {
            "version": door.manager.version,
            "cgroup_root": door.endpoint.cgroup_root,
            "slice": door.slice,
            "prefix": door.prefix,
        }

    async def _start(self, document: Any, pidfd: int) -> None:
        """Start a scope with the process whose descriptor has come."""
        door = self._door
        request = bounds.start(document, prefix=door.prefix, slices=door.slices(self._uid))
        pid = door.pid_of(pidfd, self._uid)
        # It is seen through even if who has asked for it hangs up, with a descriptor of its own.
        starting = loop.running().create_task(door.start(request, self._uid, pid, os.dup(pidfd)))
        await loop.shield(starting)

    def _checked(self, unit: Any) -> str | None:
        """Return a unit that this client may manage, or None where it has gone."""
        door = self._door
        inside = door.known.get(unit)
        if inside is None:
            bounds.job_of(unit, door.prefix)
            return None
        if self._uid not in (0, inside.uid):
            raise bounds.refusal(f"{unit} of another user")
        return str(unit) if door.is_there(unit) else None

    def _living(self, unit: Any) -> str:
        name = self._checked(unit)
        if name is None:
            raise ManagerRefused(f"{unit}: there is no such unit", name=NO_SUCH_UNIT)
        return name

    async def _stop(self, unit: Any, seconds: Any) -> None:
        await self._end(unit, self._door.manager.stop, _seconds(seconds))

    async def _destroy(self, unit: Any, seconds: Any) -> None:
        await self._end(unit, self._door.manager.destroy, _seconds(seconds))

    async def _end(
        self, unit: Any, end: Callable[..., Awaitable[None]], seconds: float | None
    ) -> None:
        name = self._checked(unit)
        if name is not None:
            await end(name, timeout=seconds)
        elif unit in self._door.known:
            # systemd forgets a unit a moment after its cgroup.
            await self._door.manager.wait_removed(unit, timeout=seconds)

    async def _freeze(self, unit: Any, seconds: Any) -> None:
        await self._door.manager.freeze(self._living(unit), timeout=_seconds(seconds))

    async def _thaw(self, unit: Any, seconds: Any) -> None:
        await self._door.manager.thaw(self._living(unit), timeout=_seconds(seconds))

    async def _kill(self, unit: Any, signal: Any, seconds: Any) -> None:
        number = bounds.signal_number(signal)
        await self._door.manager.kill(self._living(unit), number, timeout=_seconds(seconds))

    async def _removed(self, unit: Any, seconds: Any) -> None:
        self._checked(unit)
        if unit in self._door.known:
            await self._door.manager.wait_removed(unit, timeout=_seconds(seconds))

    async def _exists(self, unit: Any) -> bool:
        self._checked(unit)
        return unit in self._door.known and await self._door.manager.exists(unit)

    async def _property(self, unit: Any, interface: Any, name: Any) -> Any:
        self._checked(unit)
        if (interface, name) not in _READABLE:
            raise bounds.refusal(f"property {interface}.{name}")
        return await self._door.manager.unit_property(unit, interface, name)

    async def _set(self, unit: Any, given: Any) -> None:
        properties = bounds.read_properties(given)
        await self._door.manager.set_properties(self._living(unit), properties)

    async def _list(self, start: Any) -> list[list[str]]:
        first = bounds.number(start)
        units = await self._door.manager.list_units(f"sdbox-{self._door.prefix}*.scope")
        known = sorted((u for u in units if u.name in self._door.known), key=lambda u: u.name)
        return [
            [u.name, _shortened(u.description), u.load_state, u.active_state, u.sub_state]
            for u in known[first : first + _MOST_LISTED]
        ]


_VERBS: dict[bytes, Callable[..., Awaitable[Any]]] = {
    b"hello": Visitor._hello,
    b"stop": Visitor._stop,
    b"destroy": Visitor._destroy,
    b"freeze": Visitor._freeze,
    b"thaw": Visitor._thaw,
    b"kill": Visitor._kill,
    b"removed": Visitor._removed,
    b"exists": Visitor._exists,
    b"property": Visitor._property,
    b"set": Visitor._set,
    b"list": Visitor._list,
}


# What asks the manager for nothing while it waits.
_WAITING = frozenset((b"removed",))


@contextlib.asynccontextmanager
async def _held(places: loop.Semaphore) -> AsyncIterator[None]:
    await places.acquire()
    try:
        yield
    finally:
        places.release()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_DESCRIPTION else text[: _LONGEST_DESCRIPTION - 1] + "…"


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not value > 0:
        raise bounds.refusal("a time-out")
    return float(min(value, _LONGEST_SECONDS))


def _error(error: SdboxError) -> dict[str, Any]:
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "name": getattr(error, "name", ""),
    }
