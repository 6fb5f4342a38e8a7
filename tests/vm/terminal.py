"""The terminal of a machine: kept in a log, shown, or handed to the person at this one."""

from __future__ import annotations

import os
import pty
import select
import sys
import termios
import time
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import TierFailed

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

_BLOCK = 65536


class Terminal:
    """A pseudo-terminal: `end` is the machine's, `name` its path."""

    def __init__(self, log: Path, *, show: bool = True, interactive: bool = False) -> None:
        self._master, self.end = pty.openpty()
        self.name = os.ttyname(self.end)
        self._log: BinaryIO = log.open("wb", buffering=0)
        self._shown, self._interactive = show, interactive
        os.set_blocking(self._master, False)

    def close(self) -> None:
        for fd in (self._master, self.end):
            os.close(fd)
        self._log.close()

    def follow(self, machine: subprocess.Popen[bytes], seconds: float) -> None:
        """Show all until the machine's end. TierFailed if that does not come in time."""
        pidfd = os.pidfd_open(machine.pid)
        try:
            with self._at_the_keyboard():
                self._follow(pidfd, time.monotonic() + seconds)
        finally:
            os.close(pidfd)
        self._show()

    def _follow(self, pidfd: int, deadline: float) -> None:
        poll = select.poll()
        for fd in (pidfd, self._master, *self._keyboard()):
            poll.register(fd, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left * 1000)}
            if self._master in ready:
                self._show()
            if pidfd in ready:
                return
            if not ready.isdisjoint(self._keyboard()):
                self._type(poll)
        raise TierFailed("The machine did not end in time", hint=f"See {self._log.name}")

    def _type(self, poll: select.poll) -> None:
        if keys := os.read(sys.stdin.fileno(), _BLOCK):
            os.write(self._master, keys)
        else:
            poll.unregister(sys.stdin)

    def _keyboard(self) -> tuple[int, ...]:
        return (sys.stdin.fileno(),) if self._interactive else ()

    def _show(self) -> None:
        while data := self._read():
            self._log.write(data)
            if self._shown:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()

    def _read(self) -> bytes:
        try:
            return os.read(self._master, _BLOCK)
        except BlockingIOError:
            return b""

    @contextmanager
    def _at_the_keyboard(self) -> Iterator[None]:
        """Let every key through, ^C as well, to the machine."""
        if not self._interactive:
            yield
            return
        settings = termios.tcgetattr(sys.stdin)
        tty.setraw(sys.stdin)
        try:
            yield
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
