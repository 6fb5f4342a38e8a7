"""An init that is forked ahead of its launch, so that a launch can begin with its PID."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence

from sdbox.init import wire
from sdbox.init.descriptors import close_all_but

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sdbox.init.private import Private

# Of the descriptors that come with a launch, those from here on are only held: they come after the
# report socket and the streams.
HELD = 4

# The spare goes as soon as it sees that there is nobody to give it a box.
_END_SECONDS = 10.0


class Spare:
    """A process that waits to become an init. `guardians` are supervisor and helper."""

    __slots__ = ("_socket", "pid", "pidfd")

    def __init__(self, guardians: tuple[int, int]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            _wait(theirs, guardians)
        theirs.close()
        self.pidfd = os.pidfd_open(self.pid)

    def give(self, fds: Sequence[int]) -> None:
        """Have it become the init of a box, by what came with its launch: spec, report socket…"""
        with self._socket:
            try:
                wire.send(self._socket, "box", fds=tuple(fds))
            except ConnectionError:
                # Somebody has killed it, and its report socket says so.
                pass

    def close(self) -> None:
        """Let it go, unused."""
        self._socket.close()
        select.select([self.pidfd], [], [], _END_SECONDS)
        self.reap()

    def reap(self) -> None:
        """Take note of its end."""
        self._socket.close()
        os.close(self.pidfd)
        os.waitpid(self.pid, 0)


def become_init(
    spec: dict[str, Any],
    fds: Sequence[int],
    directories: dict[str, Private],
    guardians: tuple[int, int],
) -> NoReturn:
    """Be the init of a box, with the descriptors that came with its launch."""
    try:
        # Not by a helper that is in a hurry to fork this.
        from sdbox.init.main import Init

        report, *streams = fds[:HELD]
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        close_all_but({0, 1, 2, report, *guardians, *fds[HELD:]})
        Init(spec, socket.socket(fileno=report), guardians, directories).run()
    finally:
        os._exit(1)


def _wait(sock: socket.socket, guardians: tuple[int, int]) -> NoReturn:
    try:
        close_all_but({0, 1, 2, sock.fileno(), *guardians})
        poll = select.poll()
        for fd in (sock.fileno(), *guardians):
            poll.register(fd, select.POLLIN)
        poll.poll()
        fields, fds = wire.receive(sock)
        if not fields:
            os._exit(0)
        become_init(wire.spec(fds[0]), fds[1:], {}, guardians)
    finally:
        os._exit(1)
