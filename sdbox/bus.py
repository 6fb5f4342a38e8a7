"""A connection to a D-Bus daemon. The only module that imports dbus_next.

dbus_next 0.2.3 marshals and unmarshals messages; the transport is our own, because what has to
be worked around in that library is all in its `aio.MessageBus`: `connect()` hangs for ever when
the peer closes during authentication, calls have no time-out and leave their handler behind, the
socket stays open after a disconnect, received file descriptors leak and are inheritable, and
match rules come a whole interface at a time, with introspection. A non-blocking socket, a table
of pending calls and a table of signals are shorter than the work-arounds, and have no such traps.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from array import array
from collections import deque
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sdbox import dial, loop
from sdbox.errors import ConnectionLost, ManagerRefused, ManagerUnavailable
from sdbox.record import record

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Sequence

    from dbus_next._private.unmarshaller import Unmarshaller
    from dbus_next.constants import MessageType
    from dbus_next.message import Message
    from dbus_next.signature import Variant

    Callback = Callable[[list[Any]], None]

else:
    # The package itself would import clients for asyncio and GLib, services, XML and inspect: a
    # sixth of a whole launch for what is not used here. So its modules get a package of ours to
    # live in; who imports dbus_next beside it is not concerned.
    spec = PathFinder.find_spec("dbus_next")
    if spec is None:
        raise ModuleNotFoundError("No module named 'dbus_next'", name="dbus_next")
    package = sys.modules["sdbox._dbus_next"] = ModuleType("sdbox._dbus_next")
    package.__path__ = spec.submodule_search_locations
    # Its modules import each other in a circle, which can be entered here only.
    import_module("sdbox._dbus_next.errors")
    from sdbox._dbus_next._private.unmarshaller import Unmarshaller
    from sdbox._dbus_next.constants import MessageType
    from sdbox._dbus_next.message import Message
    from sdbox._dbus_next.signature import Variant

# dbus-daemon answers LimitsExceeded to a connection's 129th pending call (its limit
# max_replies_per_connection), and to a user's 257th connection.
MAX_CALLS = 100
LIMITS_EXCEEDED = "org.freedesktop.DBus.Error.LimitsExceeded"

# The D-Bus specification's maximum. A longer one comes from a broken or hostile peer.
MAX_MESSAGE_BYTES = 128 * 2**20

# Messages handled before the event loop gets its turn again.
_BATCH = 64


def variant(signature: str, value: object) -> Variant:
    """A value of D-Bus type `v`; structs and arrays may be tuples. `ay` is bytes, `h` an index.

    Raises ManagerRefused when the value does not fit the signature.
    """
    with _refusing_misfits(f"a value of type {signature}"):
        return Variant(signature, _plain(value))


@record
class Match:
    """Which broadcast signals to receive. `arguments`: string arguments by their position."""

    sender: str
    path: str
    interface: str
    member: str
    arguments: tuple[tuple[int, str], ...] = ()

    @property
    def rule(self) -> str:
        """The match rule in the D-Bus specification's syntax."""
        keys = [
            ("type", "signal"),
            ("sender", self.sender),
            ("path", self.path),
            ("interface", self.interface),
            ("member", self.member),
            *((f"arg{position}", value) for position, value in self.arguments),
        ]
        return ",".join(f"{key}={_quoted(value)}" for key, value in keys)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a received signal is told apart by."""
        return self.path, self.interface, self.member


class Bus:
    """An authenticated connection that has its name on the bus. Made by connect().

    `closed` is done as soon as the connection is no more, with the reason as its result: never
    as its exception, so that nobody has to look at it.
    """

    # Whether systemd itself is at the other end.
    direct = False

    def __init__(self, sock: socket.socket) -> None:
        self._loop = loop.running()
        self._serial = 0
        self._slots = loop.Semaphore(MAX_CALLS)
        self._pending: dict[int, asyncio.Future[list[Any]]] = {}
        self._callbacks: dict[tuple[str, str, str], list[Callback]] = {}
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self._end_type: type[ManagerUnavailable] = ConnectionLost
        self._wire = _Wire(sock, self._dispatch, self._ended)

    @classmethod
    async def connect(cls, address: str, *, timeout: float) -> Bus:
        """Connect to an address such as `unix:path=/run/dbus/system_bus_socket`.

        Raises ManagerUnavailable when nobody answers there or we are refused, and TimedOut.
        """
        async with loop.within(timeout, f"connecting to {address}"):
            return await cls.connect_socket(await dial.connect(address), timeout=timeout)

    @classmethod
    async def connect_socket(cls, sock: socket.socket, *, timeout: float) -> Bus:
        """Take over a connected stream socket, which is closed on failure too."""
        try:
            sock.setblocking(False)
            async with loop.within(timeout, "authenticating on the bus"):
                await dial.authenticate(sock)
        except BaseException:
            sock.close()
            raise
        bus = cls(sock)
        try:
            await bus._call_driver("Hello", timeout=timeout)
        except BaseException:
            await bus.close()
            raise
        return bus

    async def call(
        self,
        *,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        fds: Sequence[int] = (),
        timeout: float,
        before: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Call a method and return the body of the reply.

        A value of type `h` in the body is an index into `fds`, which stay the caller's; file
        descriptors in a reply are closed. `before` is called when all waiting for the message to
        be sent is over, which it is not if that raises. Raises ManagerRefused with the D-Bus
        error's name, ManagerUnavailable, and TimedOut, after which the call may still have its
        effect.
        """
        with _refusing_misfits(member):
            message = Message(
                destination=destination,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=_plain(body),
                unix_fds=list(fds),
            )
        async with loop.within(timeout, f"{interface}.{member}"):
            return await self._exchange(message, before)

    async def add_match(self, match: Match, callback: Callback, *, timeout: float) -> None:
        """Have `callback` called with the body of each signal that matches.

        Received signals are told apart by path, interface and member: where two matches differ
        in `arguments` alone, both callbacks get the signals of both.
        """
        self._callbacks.setdefault(match.key, []).append(callback)
        try:
            await self._call_driver("AddMatch", "s", (match.rule,), timeout=timeout)
        except BaseException:
            self._forget(match, callback)
            raise

    async def remove_match(self, match: Match, callback: Callback, *, timeout: float) -> None:
        """Undo add_match()."""
        self._forget(match, callback)
        await self._call_driver("RemoveMatch", "s", (match.rule,), timeout=timeout)

    async def close(self) -> None:
        """Close the connection. Calls that still wait for their reply get ManagerUnavailable."""
        self._wire.close()
        self._ended("the connection to the bus is closed", ManagerUnavailable)

    def unavailable(self) -> ManagerUnavailable:
        """What to raise once it is `closed`: ConnectionLost, unless by close()."""
        return self._end_type(
            self.closed.result(), hint="See whether the bus and systemd still run"
        )

    async def _call_driver(
        self, member: str, signature: str = "", body: Sequence[Any] = (), *, timeout: float
    ) -> list[Any]:
        return await self.call(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member=member,
            signature=signature,
            body=body,
            timeout=timeout,
        )

    async def _exchange(self, message: Message, before: Callable[[], object] | None) -> list[Any]:
        serial = message.serial = self._next_serial()
        with _refusing_misfits(message.member):
            data = message._marshall(negotiate_unix_fd=True)
        await self._slots.acquire()
        try:
            if self.closed.done():
                raise self.unavailable()
            if before is not None:
                before()
        except BaseException:
            self._slots.release()
            raise
        # It stays there, and keeps its slot, when the caller gives up: the daemon, too, has the
        # call pending until it is answered.
        reply: asyncio.Future[list[Any]] = self._loop.create_future()
        self._pending[serial] = reply
        self._wire.send(data, message.unix_fds)
        return await reply

    def _next_serial(self) -> int:
        # 32 bits, never 0; a process that lives for months gets around.
        self._serial = self._serial % 0xFFFFFFFF + 1
        return self._serial

    def _forget(self, match: Match, callback: Callback) -> None:
        callbacks = self._callbacks[match.key]
        callbacks.remove(callback)
        if not callbacks:
            del self._callbacks[match.key]

    def _dispatch(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            self._signal(message)
        elif message.message_type is not MessageType.METHOD_CALL:
            self._reply(message)

    def _reply(self, message: Message) -> None:
        reply = self._pending.pop(message.reply_serial, None)
        if reply is None:
            return
        self._slots.release()
        if reply.done():
            return
        if message.message_type is MessageType.ERROR:
            reply.set_exception(_refusal(message))
        else:
            reply.set_result(message.body)

    def _signal(self, message: Message) -> None:
        # Match rules, and the sender in them, hold for broadcasts only. Anybody on the bus may
        # address a forged signal to us.
        if message.destination is not None:
            return
        key = message.path, message.interface, message.member
        for callback in self._callbacks.get(key, ()):
            # Not called from here: its exception is not the connection's, and signals and
            # replies are to be seen in the order in which they came.
            self._loop.call_soon(callback, message.body)

    def _ended(self, reason: str, kind: type[ManagerUnavailable] = ConnectionLost) -> None:
        if self.closed.done():
            return
        self._end_type = kind
        self.closed.set_result(reason)
        for reply in self._pending.values():
            self._slots.release()
            if not reply.done():
                reply.set_exception(self.unavailable())
        self._pending.clear()


class Peer(Bus):
    """A connection to systemd itself, by its private socket. All signals come unasked for.

    systemd can't tell one such peer from another, so it keeps no unit for it (`AddRef`).
    """

    direct = True

    async def _call_driver(
        self, member: str, signature: str = "", body: Sequence[Any] = (), *, timeout: float
    ) -> list[Any]:
        """Ask nothing of the daemon that there is not: no name to get, no signals to choose."""
        return []


class _Wire:
    """Messages over a non-blocking socket that it owns, in both directions.

    `received` gets each message; `lost` is called once, with the reason, when the connection
    breaks, and not after close().
    """

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Message], None],
        lost: Callable[[str], None],
    ) -> None:
        self._loop = loop.running()
        self._sock = sock
        self._received = received
        self._lost = lost
        self._incoming = Unmarshaller(None, _Source(sock))
        self._outgoing: deque[_Outgoing] = deque()
        self._loop.add_reader(sock, self._read)

    def send(self, data: bytes, fds: Sequence[int]) -> None:
        self._outgoing.append(_Outgoing(data, fds))
        if len(self._outgoing) == 1:
            self._write()

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        _close_all(self._incoming.unix_fds)
        for outgoing in self._outgoing:
            outgoing.close()
        self._outgoing.clear()

    def _read(self) -> None:
        try:
            for _ in range(_BATCH):
                message = self._incoming.unmarshall()
                if message is None:
                    return
                # What sdbox calls returns no file descriptors, and signals could bring some.
                _close_all(message.unix_fds)
                self._incoming = Unmarshaller(None, _Source(self._sock))
                self._received(message)
        # A malformed message can raise anything in the unmarshaller.
        except Exception as error:
            self._break(error)

    def _write(self) -> None:
        try:
            while self._outgoing and self._outgoing[0].send(self._sock):
                self._outgoing.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            self._break(error)
            return
        if self._outgoing:
            self._loop.add_writer(self._sock, self._write)
        else:
            self._loop.remove_writer(self._sock)

    def _break(self, error: Exception) -> None:
        self.close()
        reason = "closed by the other side" if isinstance(error, EOFError) else str(error)
        self._lost(f"the connection to the bus is lost: {reason}")


class _Source:
    """A socket as the unmarshaller wants it, with received file descriptors not inheritable."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recvmsg(self, size: int, ancillary_size: int) -> tuple[bytes, list[Any], int, Any]:
        if size > MAX_MESSAGE_BYTES:
            raise ValueError(f"a message of {size} bytes")
        return self._sock.recvmsg(size, ancillary_size, socket.MSG_CMSG_CLOEXEC)


class _Outgoing:
    """A message on its way out, with file descriptors of its own.

    They are duplicates, because the caller may be cancelled and close its own before the socket
    takes the message: another file with the same number would be sent.
    """

    __slots__ = ("_data", "_fds")

    def __init__(self, data: bytes, fds: Sequence[int]) -> None:
        self._data = memoryview(data)
        self._fds: list[int] = []
        try:
            self._fds.extend(map(os.dup, fds))
        except OSError:
            self.close()
            raise

    def send(self, sock: socket.socket) -> bool:
        """Send what the socket takes, and return whether that was all."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", self._fds))]
        # A program that has SIGPIPE at its default must not die of a bus that went away.
        sent = sock.sendmsg([self._data], rights if self._fds else [], socket.MSG_NOSIGNAL)
        self.close()
        self._data = self._data[sent:]
        return not self._data

    def close(self) -> None:
        _close_all(self._fds)
        self._fds.clear()


@contextlib.contextmanager
def _refusing_misfits(what: str) -> Iterator[None]:
    """What the bus would not take, refused with the name of the error that it has for it.

    A message that is not well-formed would cost the connection, and with it every other call.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        name = "org.freedesktop.DBus.Error.InvalidArgs"
        raise ManagerRefused(f"{what}: {error}", name=name) from error


def _plain(value: Any) -> Any:
    """Tuples as lists, which dbus_next wants; a NUL in a string, which it lets pass, refused."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"a NUL in {value!r}")
    return value


def _quoted(value: str) -> str:
    # The specification's quoting for match rules, which is the shell's.
    return "'" + value.replace("'", "'\\''") + "'"


def _refusal(message: Message) -> ManagerRefused:
    body = message.body
    text = body[0] if body and isinstance(body[0], str) else message.error_name
    return ManagerRefused(text, name=message.error_name)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
