"""Writes entries of sdbox's own to the journal, by systemd's "Native Journal Protocol".

An entry is a datagram of fields. None holds up a job: where there is no journal it is dropped, and
while the journal is busy entries wait, in memory.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import TimedOut
from sdbox.kernel.credentials import CREDENTIALS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence

    Field = tuple[str, str | bytes]

# Entries that may wait for a busy journal. Later ones are dropped.
_MOST_WAITING = 4096
# How long anything may wait for a busy journal.
_FLUSH_SECONDS = 0.5

_FIELD_LONGEST = 64
_FIELD_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_SIZE = struct.Struct("<Q")
# include/uapi/asm-generic/sockios.h, unix(7): what was sent and is not yet received.
_SIOCOUTQ = 0x5411


def encoded(fields: Iterable[Field]) -> bytes:
    """Return an entry as the native protocol has it. ValueError for what is no field's name."""
    return b"".join(_encoded_field(name, value) for name, value in fields)


def _encoded_field(name: str, value: str | bytes) -> bytes:
    if not _is_field(name):
        raise ValueError(f"{name!r} is no name of a journal's field")
    data = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), _SIZE.pack(len(data)), data)
    return b"%s=%s\n" % (name.encode(), data)


def _is_field(name: str) -> bool:
    # A leading underscore is for what the journal itself vouches for.
    starts_well = "A" <= name[:1] <= "Z"
    return starts_well and len(name) <= _FIELD_LONGEST and _FIELD_CHARACTERS.issuperset(name)


class Journal:
    """A journal to write to, by the directory of its sockets. It need not be there.

    `sender` is the process in whose name entries are sent: one of sdbox's own in the journal's
    PID namespace, where this process is not. An entry from nobody that the journal can see gets no
    trusted fields, and `journalctl --unit` would not show it.
    """

    def __init__(self, directory: str, sender: int | None = None) -> None:
        self._path = f"{directory}/socket"
        self._sender = sender
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._watched = False
        self._emptied: asyncio.Future[None] | None = None

    def send(self, fields: Iterable[Field]) -> None:
        """Send an entry, or have it wait while the journal is busy. Never blocks."""
        data = encoded(fields)
        if self._waiting or not self._try(data):
            if len(self._waiting) < _MOST_WAITING:
                self._waiting.append(data)
            self._watch()

    async def received(self) -> bool:
        """Wait until the journal has received all that was sent; return whether it has in time."""
        if not await self._all_sent():
            return False
        return self._socket is None or await all_received([self._socket], _FLUSH_SECONDS)

    async def close(self) -> None:
        """Let go of the journal. What waits for it gets a moment more."""
        if not await self._all_sent():
            self._waiting.clear()
        self._forget()

    async def _all_sent(self) -> bool:
        if not self._waiting:
            return True
        if self._emptied is None or self._emptied.done():
            self._emptied = loop.running().create_future()
        try:
            async with loop.within(_FLUSH_SECONDS, "The journal"):
                # Others may be waiting for it as well.
                await loop.shield(self._emptied)
        except TimedOut:
            return False
        return True

    def _try(self, data: bytes) -> bool:
        """Send an entry; return False where it has to wait. Without a journal, it is dropped."""
        # Twice, since a journal's socket may have been made anew.
        for _ in range(2):
            try:
                _send(self._connected(), data, self._credentials())
            except BlockingIOError:
                return False
            except OSError:
                self._forget()
            else:
                return True
        return True

    def _connected(self) -> socket.socket:
        if self._socket is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect(self._path)
            except OSError:
                sock.close()
                raise
            self._socket = sock
        return self._socket

    def _credentials(self) -> list[tuple[int, int, bytes]]:
        if self._sender is None:
            return []
        data = CREDENTIALS.pack(self._sender, os.geteuid(), os.getegid())
        return [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, data)]

    def _watch(self) -> None:
        if self._socket is not None and not self._watched:
            loop.running().add_writer(self._socket.fileno(), self._flush)
            self._watched = True

    def _unwatch(self) -> None:
        if self._socket is not None and self._watched:
            loop.running().remove_writer(self._socket.fileno())
            self._watched = False

    def _flush(self) -> None:
        while self._waiting and self._try(self._waiting[0]):
            self._waiting.popleft()
        if self._waiting:
            # Trying may have led to another socket.
            self._watch()
            return
        self._unwatch()
        if self._emptied is not None:
            loop.settle(self._emptied)

    def _forget(self) -> None:
        self._unwatch()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _send(sock: socket.socket, data: bytes, credentials: list[tuple[int, int, bytes]]) -> None:
    try:
        sock.sendmsg([data], credentials)
    except OSError as error:
        if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            raise
        _send_file(sock, data, credentials)


def _send_file(sock: socket.socket, data: bytes, credentials: list[tuple[int, int, bytes]]) -> None:
    """Send an entry that is too large for a datagram: in memory that can't change any more."""
    import fcntl

    memory = os.memfd_create("sdbox-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(memory, "wb") as file:
        file.write(data)
        file.flush()
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))
        sock.sendmsg([], [*credentials, rights])


async def all_received(sockets: Sequence[socket.socket], seconds: float) -> bool:
    """Wait until nothing is on its way in these sockets; return whether that came in time."""
    with select.epoll() as epoll:
        for sock in sockets:
            # Edge-triggered, this tells of each time that the other side has taken something.
            epoll.register(sock.fileno(), select.EPOLLOUT | select.EPOLLET)
        try:
            async with loop.within(seconds, "The journal"):
                while any(map(_is_unreceived, sockets)):
                    await loop.readable(epoll.fileno())
                    epoll.poll(0)
        except TimedOut:
            return False
    return True


def _is_unreceived(sock: socket.socket) -> bool:
    import fcntl

    if sock.fileno() < 0:
        # The journal has gone.
        return False
    answer = fcntl.ioctl(sock.fileno(), _SIOCOUTQ, b"\0\0\0\0")
    # The kernel tells us when all but 1 of a message's size are given back (sock_wfree()).
    return int.from_bytes(answer, "little") > 1
