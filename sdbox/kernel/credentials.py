"""Who is at the other end of a Unix socket, by the kernel's word: struct ucred of unix(7)."""

from __future__ import annotations

import socket
import struct

# PID, user and group.
CREDENTIALS = struct.Struct("iII")


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """Return PID, user and group of who has connected, or of who listens."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return CREDENTIALS.unpack(data)
