"""What becomes of the payload, and of all that is left to init: reaped, and told."""

from __future__ import annotations

import os
import signal

from sdbox.init import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket


class Reaper:
    """Reaps all children of init and reports what becomes of one of them, the payload.

    `status` is the payload's status of wait(2), once it has ended.
    """

    def __init__(self, child: int, report: socket.socket) -> None:
        self.status: int | None = None
        self._child = child
        self._report = report
        self._stops = 0
        self._is_stopped = False

    def reap(self) -> None:
        """Reap all that has ended, and tell the supervisor of the payload."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child:
                self._note(status)

    def resume(self, stop: int) -> None:
        """Continue the payload, if its last stop has this number and it has not gone on since.

        A shell's `fg` continues supervisor and payload at once. If the supervisor passed that on
        by itself, it might undo a stop that has come since: only the parent knows their order.
        """
        self.reap()
        if self._is_stopped and stop == self._stops:
            os.kill(self._child, signal.SIGCONT)

    def _note(self, status: int) -> None:
        self._is_stopped = os.WIFSTOPPED(status)
        if self._is_stopped:
            self._stops += 1
            tell(self._report, "stopped", self._stops)
        elif os.WIFCONTINUED(status):
            tell(self._report, "continued")
        else:
            self.status = status
            tell(self._report, "exited", status)


def tell(report: socket.socket, *fields: str | int, fds: tuple[int, ...] = ()) -> None:
    """Send the supervisor a message, if it is there."""
    try:
        wire.send(report, *fields, fds=fds)
    except ConnectionError:
        # The supervisor has hung up, and the next look at the socket says so.
        pass
