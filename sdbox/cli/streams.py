"""The standard streams of `sdbox run`, which are the payload's."""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def fill_standard() -> None:
    """Open /dev/null for standard streams that are closed, so that nothing of ours lands there."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


def let_go() -> None:
    """Hold neither stdin nor stdout: who is at their other ends waits for the last holder."""
    nothing = _nothing()
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _nothing() -> int:
    try:
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # In a box there may be none, or none that may be opened.
        return os.open("/", os.O_PATH | os.O_CLOEXEC)


@contextlib.contextmanager
def terminal_kept() -> Iterator[bool]:
    """Give the terminal back to this process group, where a payload with job control took it.

    Yields whether there is a terminal with this process in its foreground.
    """
    terminal = _own_terminal()
    try:
        yield terminal is not None
    finally:
        if terminal is not None:
            with contextlib.suppress(OSError):
                _take(terminal)
            os.close(terminal)


def _own_terminal() -> int | None:
    """Return the controlling terminal, if this process is in its foreground."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if os.tcgetpgrp(terminal) == os.getpgrp():
        return terminal
    os.close(terminal)
    return None


def _take(terminal: int) -> None:
    # A process in the background is stopped for this, unless it blocks the signal: tcsetpgrp(3).
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    os.tcsetpgrp(terminal, os.getpgrp())
