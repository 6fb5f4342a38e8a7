"""What sdbox says to a person: single lines on stderr."""

from __future__ import annotations

import contextlib
import os
import sys


def complain(line: str) -> None:
    """Say what is wrong. A closed or full stderr is no reason to fail."""
    # Not through sys.stderr: what could not be written would be tried again at the exit.
    with contextlib.suppress(OSError):
        os.write(2, f"sdbox: {_printable(line)}\n".encode(errors="surrogateescape"))


def flushed(status: int) -> int:
    """Write out what stdout still holds; return the status, or 1 where that fails."""
    # Python has none where it was closed from the start.
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError as error:
            return stdout_failed(error, status)
    return status


def stdout_failed(error: OSError, status: int = 0) -> int:
    """Say that stdout took not all; return the status, or 1 where that was good."""
    complain(f"stdout: {error.strerror}")
    # What is left of it would be tried again, and said again.
    sys.stdout = None
    return status or 1


def _printable(line: str) -> str:
    """Return the line without what could move a terminal's cursor or start a new line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
