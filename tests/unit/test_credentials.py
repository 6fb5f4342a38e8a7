"""Who is at the other end of a Unix socket."""

from __future__ import annotations

import os
import socket

from sdbox.kernel.credentials import CREDENTIALS, peer_credentials


def test_the_peer_of_a_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_credentials(ours) == (os.getpid(), os.geteuid(), os.getegid())


class FromDirectoryService(socket.socket):
    """A socket whose peer has a large number, as what maps users for containers gives out."""

    def getsockopt(self, *_: object) -> bytes:  # type: ignore[override]
        return bytes(CREDENTIALS.pack(7, 4_000_000_000, 3_000_000_000))


def test_numbers_of_users_have_no_sign() -> None:
    with FromDirectoryService(socket.AF_UNIX) as sock:
        assert peer_credentials(sock) == (7, 4_000_000_000, 3_000_000_000)
