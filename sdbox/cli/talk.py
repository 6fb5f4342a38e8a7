"""What sdbox says to a person: single lines on stderr."""

from __future__ import annotations

import contextlib
import errno
import os
import sys

# signal.SIGPIPE, without that module: an exit status as subprocess has it.
_ENDED_BY_SIGPIPE = -13


def complain(line: str) -> None:
    """Say what is wrong. A closed or full stderr is no reason to fail."""
    # Not through sys.stderr: what could not be written would be tried again at the exit.
    with contextlib.suppress(OSError):
        os.write(2, f"sdbox: {_printable(line)}\n".encode(errors="surrogateescape"))


def flushed(status: int) -> int:
    """Write out what stdout still holds; return the status, or that of stdout_failed()."""
    # Python has none where it was closed from the start.
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            return stdout_failed(error, status)
    return status


def stdout_failed(error: OSError, status: int = 0) -> int:
    """Say that stdout took not all; return the status, or 1 where that was good.

    A reader that has seen enough is nothing to talk about: the status is that of SIGPIPE then.
    """
    # What is left of it would be tried again, and said again.
    sys.stdout = None
    if error.errno == errno.EPIPE:
        return _ENDED_BY_SIGPIPE
    complain(f"stdout: {error.strerror}")
    return status or 1


def _printable(line: str) -> str:
    """Return the line without what could move a terminal's cursor or start a new line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
