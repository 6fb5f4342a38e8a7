"""A terminal for a service's job: one of its own; what is typed and shown is passed on.

A service is in a session of its own, which the caller's terminal can't be the terminal of.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
import tty
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.cli.signals import stop
from sdbox.init.syscalls import signalfd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdbox.launch.helper import Streams

_MOST = 65536


def opened(streams: Streams) -> tuple[int, Streams]:
    """Open a terminal like the one that stdin is; return its other end, and it among the streams.

    It takes the place of all of them that are terminals.
    """
    ours, theirs = os.openpty()
    termios.tcsetattr(theirs, termios.TCSANOW, termios.tcgetattr(streams[0]))
    _copy_size(streams[0], ours)
    stdin, stdout, stderr = (theirs if os.isatty(fd) else fd for fd in streams)
    return ours, (stdin, stdout, stderr)


def _copy_size(source: int, destination: int) -> None:
    size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(destination, termios.TIOCSWINSZ, size)


class Relay:
    """Between this process's terminal and a job's, `job`, which it owns from now on."""

    def __init__(self, job: int) -> None:
        self._job = job
        # Opened anew: whoever shares the descriptors that are there would block no more, either.
        self._own = os.open("/dev/tty", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(job, False)
        self._before = termios.tcgetattr(self._own)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH, signal.SIGTTOU})
        self._sizes = signalfd({signal.SIGWINCH})
        self._typed = _Flow(self._own, job)
        self._shown = _Flow(job, self._own)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Pass on, in a running loop; all that the job has written is shown in the end."""
        self._grasp()
        loop.running().add_reader(self._sizes, self._resize)
        self._typed.begin()
        self._shown.begin()
        try:
            yield
        finally:
            self._typed.end()
            self._shown.end()
            loop.running().remove_reader(self._sizes)
            self._show_rest()
            self._let_go()
            self._close()

    def stop(self) -> None:
        """Stop this process, as the payload was, with the terminal as it was before."""
        # A ^Z that comes before the payload goes on would be lost by its SIGCONT.
        self._typed.end()
        self._let_go()
        stop()
        if os.tcgetpgrp(self._own) == os.getpgrp():
            self._grasp()
            self._resize()

    def proceed(self) -> None:
        """Pass on what is typed again: the payload goes on."""
        self._typed.begin()

    def _grasp(self) -> None:
        """Have every key come through: it is the job's terminal that knows what ^C is."""
        tty.setraw(self._own, termios.TCSADRAIN)

    def _let_go(self) -> None:
        # A terminal that has hung up has nothing to restore.
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(self._own, termios.TCSADRAIN, self._before)

    def _resize(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._sizes, 4096)
        with contextlib.suppress(OSError):
            _copy_size(self._own, self._job)

    def _show_rest(self) -> None:
        os.set_blocking(self._own, True)
        with contextlib.suppress(OSError):
            # BlockingIOError is one: there is no more, though somebody may still hold it open.
            while data := self._shown.take():
                os.write(self._own, data)

    def _close(self) -> None:
        for fd in (self._sizes, self._own, self._job):
            os.close(fd)


class _Flow:
    """From one descriptor to another, neither of which blocks, with a bound on what is between."""

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._data = b""

    def begin(self) -> None:
        if self._data:
            loop.running().add_writer(self._sink, self._write)
        else:
            loop.running().add_reader(self._source, self._read)

    def end(self) -> None:
        loop.running().remove_reader(self._source)
        loop.running().remove_writer(self._sink)

    def take(self) -> bytes:
        """Return what is there, without waiting. Raises OSError where that is nothing."""
        data, self._data = self._data, b""
        return data or os.read(self._source, _MOST)

    def _read(self) -> None:
        try:
            self._data = os.read(self._source, _MOST)
        except BlockingIOError:
            return
        except OSError:
            # EIO: it has hung up, or nobody has it open any more.
            self._data = b""
        loop.running().remove_reader(self._source)
        if self._data:
            self._write()

    def _write(self) -> None:
        try:
            self._data = self._data[os.write(self._sink, self._data) :]
        except BlockingIOError:
            pass
        except OSError:
            self._data = b""
        if self._data:
            loop.running().add_writer(self._sink, self._write)
        else:
            loop.running().remove_writer(self._sink)
            loop.running().add_reader(self._source, self._read)
