"""The supervisor's end of init's messages: has the payload started, has it ended, and how."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.errors import LaunchFailed
from sdbox.init import wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

    from sdbox.errors import SdboxError


class Report:
    """The supervisor's end of init's messages. `ended` is done when the payload has ended.

    The result of that is the status of wait(2), or None where init vanished without a word. `born`
    is done when an init that systemd has started is at work, with descriptors of it and its like.
    `disk` are descriptors of what the job has on disk, if that is to be counted.
    `on_stopped` is called when the payload was stopped, as by ^Z, `on_continued` when it goes on.
    `service`: systemd starts init.
    """

    def __init__(self, sock: socket.socket, *, service: bool) -> None:
        self._sock = sock
        self._service = service
        self._loop = loop.running()
        self.born: asyncio.Future[list[int]] = self._loop.create_future()
        self.started: asyncio.Future[int] = self._loop.create_future()
        self.ended: asyncio.Future[int | None] = self._loop.create_future()
        # Where those who are inside of a nestable box will knock.
        self.listener: socket.socket | None = None
        # Whoever gives up on a launch for another reason does not ask how this came out.
        self.born.add_done_callback(_retrieve)
        self.started.add_done_callback(_retrieve)
        self.ended_at = self.ended_monotonic = 0.0
        self.disk: list[int] = []
        # The number of the stop that the payload is in, 0 where it runs.
        self.stop = 0
        self.on_stopped: Callable[[], object] = lambda: None
        self.on_continued: Callable[[], object] = lambda: None
        self._loop.add_reader(sock.fileno(), self._on_message)

    def release(self, cgroup: int) -> None:
        """Let init go on: it is in its unit."""
        with contextlib.suppress(ConnectionError):
            wire.send(self._sock, "release", fds=(cgroup,))

    def resume(self) -> None:
        """Have init continue the payload, if it still is in the stop that it told of last."""
        if self.stop and self._sock.fileno() >= 0:
            with contextlib.suppress(ConnectionError):
                wire.send(self._sock, "continue", self.stop)
            # Once is enough, and an init that is frozen reads nothing.
            self.stop = 0

    def dismiss(self) -> None:
        """Let init go: nothing else of the job is left."""
        with contextlib.suppress(ConnectionError):
            wire.send(self._sock, "dismissed")
        self.close()

    def give_up(self) -> None:
        """Let an init go that will not be released, and the payload that nobody has taken."""
        if self.started.done() and not self.started.cancelled() and not self.started.exception():
            os.close(self.started.result())
        if self._sock.fileno() >= 0:
            self.dismiss()

    def close(self) -> None:
        """Listen no more. An init that was not dismissed ends its box."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        if self.listener is not None:
            self.listener.close()
        wire.close(self.disk)
        self.disk = []

    def _on_message(self) -> None:
        # A payload that got hold of init can write anything here; it ends its own job by it.
        try:
            fields, fds = wire.receive(self._sock)
        except ValueError:
            fields, fds = [], []
        handler = _MESSAGES.get(fields[0] if fields else b"", Report._on_gone)
        try:
            handler(self, fields, fds)
        except (ValueError, IndexError):
            self._on_gone([], fds)

    def _on_born(self, fields: list[bytes], fds: list[int]) -> None:
        if self.born.done() or not fds:
            raise ValueError("born, again or without a descriptor")
        self.born.set_result(fds)

    def _on_listening(self, fields: list[bytes], fds: list[int]) -> None:
        if self.listener is not None or self.started.done() or len(fds) != 1:
            raise ValueError("listening, again, late, or without a descriptor")
        self.listener = socket.socket(fileno=fds[0])

    def _on_disk(self, fields: list[bytes], fds: list[int]) -> None:
        if self.started.done() or self.disk:
            raise ValueError("what it has on disk, again or late")
        self.disk = fds

    def _on_started(self, fields: list[bytes], fds: list[int]) -> None:
        if self.started.done() or len(fds) != 1:
            raise ValueError("started, again or without a descriptor")
        self.started.set_result(fds[0])

    def _on_stopped(self, fields: list[bytes], fds: list[int]) -> None:
        wire.close(fds)
        self.stop = int(fields[1])
        self.on_stopped()

    def _on_continued(self, fields: list[bytes], fds: list[int]) -> None:
        wire.close(fds)
        self.stop = 0
        self.on_continued()

    def _on_exited(self, fields: list[bytes], fds: list[int]) -> None:
        self._settle(int(fields[1]) & 0xFFFF)
        wire.close(fds)

    def _on_error(self, fields: list[bytes], fds: list[int]) -> None:
        from sdbox.launch.failures import launch_error

        step, path, number = fields[1:4]
        error = launch_error(step, path, number, service=self._service)
        wire.close(fds)
        self._fail(error)

    def _on_gone(self, fields: list[bytes], fds: list[int]) -> None:
        wire.close(fds)
        self._loop.remove_reader(self._sock.fileno())
        # It says why it can't go on, whatever that is.
        self._fail(
            LaunchFailed(
                "The job's init was killed before it started the command",
                hint="Something outside did that; if for want of memory, `journalctl -k` tells",
            )
        )

    def _fail(self, error: SdboxError) -> None:
        for future in (self.born, self.started):
            if not future.done():
                future.set_exception(error)
        self._settle(None)

    def _settle(self, status: int | None) -> None:
        if not self.ended.done():
            self.ended_at = time.time()
            self.ended_monotonic = time.monotonic()
            self.ended.set_result(status)


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


_MESSAGES = {
    b"born": Report._on_born,
    b"listening": Report._on_listening,
    b"disk": Report._on_disk,
    b"started": Report._on_started,
    b"stopped": Report._on_stopped,
    b"continued": Report._on_continued,
    b"exited": Report._on_exited,
    b"error": Report._on_error,
}
