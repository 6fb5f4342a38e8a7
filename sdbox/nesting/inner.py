"""A manager as seen from inside a nestable box: it is asked by way of the box's supervisor.

See `sdbox.nesting.door`, which is at the other end, for what goes over the socket.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from sdbox import loop
from sdbox.errors import ConnectionLost, LaunchFailed, ManagerUnavailable, SdboxError
from sdbox.init import wire
from sdbox.manager import Manager, UnitStatus
from sdbox.nesting import bounds
from sdbox.systemd.around import connected, value

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable, Sequence

    from sdbox.properties import OwnSlice, UnitProperty

_CALL_SECONDS = 60.0
# The other side has a bound, too, and others share that.
_MOST_CALLS = 50
# Of these, for those inside of boxes of this one's.
_MOST_GUESTS = 20


async def connect(path: str, *, timeout: float = _CALL_SECONDS) -> InnerManager:
    """Reach the manager through a box's socket. Raises ManagerUnavailable."""
    try:
        sock = connected(path)
    except OSError as error:
        raise ManagerUnavailable(f"{path}: {error.strerror}") from None
    manager = InnerManager(sock, timeout)
    try:
        manager.known = await manager.ask("hello")
    except BaseException:
        await manager.close()
        raise
    return manager


class InnerManager(Manager):
    """The part of a Manager that a box inside of a box has. Made by connect()."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._sock = sock
        self._timeout = timeout
        self._serial = 0
        self._answers: dict[bytes, asyncio.Future[Any]] = {}
        self._slots = loop.Semaphore(_MOST_CALLS)
        self.guests = loop.Semaphore(_MOST_GUESTS)
        self.known: dict[str, Any] = {}
        sock.setblocking(False)
        loop.running().add_reader(sock.fileno(), self._on_message)

    @property
    def version(self) -> int:
        """systemd's major version."""
        return int(self.known["version"])

    async def close(self) -> None:
        """Close the connection. Units live on."""
        self._end(ManagerUnavailable("the connection to the box around is closed"))

    async def ask(
        self, verb: str, *arguments: Any, fds: tuple[int, ...] = (), timeout: float | None = None
    ) -> Any:
        """Have the box's supervisor do something; return what comes of it."""
        await self._slots.acquire()
        try:
            # A little longer than there, where it is told better.
            async with loop.within((timeout or self._timeout) + 5.0, f"{verb} {arguments[:1]}"):
                return await self._exchange(verb, arguments, fds)
        finally:
            self._slots.release()

    async def _exchange(self, verb: str, arguments: tuple[Any, ...], fds: tuple[int, ...]) -> Any:
        if self._sock.fileno() < 0:
            raise _lost()
        self._serial += 1
        key = str(self._serial).encode()
        answer = self._answers[key] = loop.running().create_future()
        try:
            # Who has been turned away by now is about to hear why.
            with contextlib.suppress(BrokenPipeError):
                wire.send(self._sock, key, verb, json.dumps(arguments), fds=fds)
            return value(await answer)
        except OSError as error:
            raise ConnectionLost(f"the box around: {error.strerror}") from None
        finally:
            self._answers.pop(key, None)

    def _on_message(self) -> None:
        try:
            fields, fds = wire.receive(self._sock)
        except (OSError, ValueError):
            fields, fds = [], []
        wire.close(fds)
        if len(fields) != 2:
            self._end(_lost())
        elif not fields[0]:
            self._end(_turned_away(fields[1]))
        elif (answer := self._answers.get(fields[0])) is not None and not answer.done():
            answer.set_result(fields[1])

    def _end(self, error: SdboxError) -> None:
        if self._sock.fileno() < 0:
            return
        loop.running().remove_reader(self._sock.fileno())
        self._sock.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)

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
        """As Manager.start_scope(). The process is known by its descriptor alone."""
        own = own_slice and (own_slice.name, bounds.to_plain(own_slice.properties))
        given = bounds.to_plain(properties)
        await self.ask("start", unit, given, own, fds=tuple(pidfds), timeout=timeout)

    async def start_service(self, unit: str, *_: Any, **__: Any) -> None:
        """Refuse: systemd would start its process outside of the box. Raises LaunchFailed."""
        raise LaunchFailed(f"{unit}: no service can be started from inside a box")

    async def stop(self, unit: str, *, timeout: float | None = None) -> None:
        """As Manager.stop()."""
        await self.ask("stop", unit, timeout, timeout=timeout)

    async def destroy(self, unit: str, *, timeout: float | None = None) -> None:
        """As Manager.destroy()."""
        await self.ask("destroy", unit, timeout, timeout=timeout)

    async def freeze(self, unit: str, *, timeout: float | None = None) -> None:
        """As Manager.freeze()."""
        await self.ask("freeze", unit, timeout, timeout=timeout)

    async def thaw(self, unit: str, *, timeout: float | None = None) -> None:
        """As Manager.thaw()."""
        await self.ask("thaw", unit, timeout, timeout=timeout)

    async def kill(self, unit: str, number: int, *, timeout: float | None = None) -> None:
        """As Manager.kill()."""
        await self.ask("kill", unit, int(number), timeout, timeout=timeout)

    async def wait_removed(self, unit: str, *, timeout: float | None = None) -> None:
        """As Manager.wait_removed()."""
        await self.ask("removed", unit, timeout, timeout=timeout)

    async def exists(self, unit: str, *, timeout: float | None = None) -> bool:
        """As Manager.exists()."""
        return bool(await self.ask("exists", unit, timeout=timeout))

    async def unit_property(
        self, unit: str, interface: str, name: str, *, timeout: float | None = None
    ) -> Any:
        """As Manager.unit_property(), for those that are of use to a box."""
        return await self.ask("property", unit, interface, name, timeout=timeout)

    async def list_units(
        self, *patterns: str, timeout: float | None = None
    ) -> tuple[UnitStatus, ...]:
        """Return the units of jobs in this box; other patterns than theirs are of no use here."""
        units: list[list[str]] = []
        while more := await self.ask("list", len(units), timeout=timeout):
            units += more
        names = ("name", "description", "load_state", "active_state", "sub_state")
        return tuple(UnitStatus(**dict(zip(names, unit, strict=True))) for unit in units)

    async def set_properties(
        self, unit: str, properties: Sequence[UnitProperty], *, timeout: float | None = None
    ) -> None:
        """As Manager.set_properties()."""
        await self.ask("set", unit, bounds.to_plain(properties), timeout=timeout)


def _turned_away(answer: bytes) -> SdboxError:
    """Return why one is, who has asked for nothing yet."""
    try:
        value(answer)
    except SdboxError as error:
        return error
    return _lost()


def _lost() -> ConnectionLost:
    return ConnectionLost(
        "The supervisor of the box around has hung up", hint="See whether it still runs"
    )
