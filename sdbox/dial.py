"""The way to a D-Bus daemon: its address, a socket to it, and authentication.

Nothing here has a time-out of its own: the caller's is meant to hold for all of it.
"""

from __future__ import annotations

import os
import socket

from sdbox import loop
from sdbox.errors import ConnectionLost, ManagerUnavailable

# Without an identity in it the daemon takes the one that the kernel names: our own uid as we see
# it would be wrong in a user namespace. All lines at once, since no answer changes what we say.
SASL = b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
_SASL_ACCEPTED = [b"DATA", b"OK", b"AGREE_UNIX_FD"]
_SASL_MAX_BYTES = 4096

_CONNECT_RETRY_SECONDS = 0.01


def socket_name(address: str) -> bytes:
    """The name for connect() in a D-Bus address: the first unix one of its alternatives."""
    for alternative in address.split(";"):
        transport, _, rest = alternative.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport == "unix" and "path" in keys:
            return _unescaped(keys["path"])
        if transport == "unix" and "abstract" in keys:
            return b"\0" + _unescaped(keys["abstract"])
    raise ManagerUnavailable(
        f'"{address}" is no bus address that can be used',
        hint="Give one such as unix:path=/run/dbus/system_bus_socket",
    )


def _unescaped(text: str) -> bytes:
    head, *escaped = os.fsencode(text).split(b"%")
    try:
        return head + b"".join(bytes.fromhex(e[:2].decode()) + e[2:] for e in escaped)
    except ValueError:
        raise ManagerUnavailable(f'"{text}" in a bus address has a bad %-escape') from None


async def connect(address: str) -> socket.socket:
    """Return a non-blocking socket that is connected to a D-Bus address."""
    name = socket_name(address)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        await _try(sock, name)
    except OSError as error:
        sock.close()
        raise ManagerUnavailable(
            f"{address}: {error.strerror or error}",
            hint="Is that bus running, and may this user connect to it?",
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


async def _try(sock: socket.socket, name: bytes) -> None:
    while True:
        try:
            sock.connect(name)
        except BlockingIOError:
            # The listener's backlog is full. Nothing can be waited for: such a socket is not
            # connecting, and polls as ready.
            await loop.sleep(_CONNECT_RETRY_SECONDS)
        else:
            return


async def authenticate(sock: socket.socket) -> None:
    """Have the daemon accept us on a non-blocking socket, and file descriptors on it."""
    answer, hung_up = b"", False
    try:
        # A socket that has carried nothing yet takes that at once.
        sock.send(SASL)
        while answer.count(b"\r\n") < len(_SASL_ACCEPTED) and len(answer) < _SASL_MAX_BYTES:
            await loop.readable(sock.fileno())
            data = sock.recv(_SASL_MAX_BYTES)
            if not data:
                hung_up = True
                break
            answer += data
    except OSError as error:
        raise ConnectionLost(f"authenticating on the bus: {error.strerror}") from error
    said = [line.partition(b" ")[0] for line in answer.split(b"\r\n")[:-1]]
    if hung_up and said == _SASL_ACCEPTED[: len(said)]:
        raise ConnectionLost("the bus hung up on us", hint="See whether it still runs")
    if said != _SASL_ACCEPTED:
        raise ManagerUnavailable(
            f"the bus did not accept us: it answered {answer.decode(errors='replace')!r}",
            hint="Its configuration must let this user in",
        )
