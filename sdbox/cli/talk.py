"""What sdbox says to a person: single lines on stderr."""

from __future__ import annotations

import contextlib
import os


def complain(line: str) -> None:
    """Say what is wrong. A closed or full stderr is no reason to fail."""
    # Not through sys.stderr: what could not be written would be tried again at the exit.
    with contextlib.suppress(OSError):
        os.write(2, f"sdbox: {_printable(line)}\n".encode(errors="surrogateescape"))


def _printable(line: str) -> str:
    """Return the line without what could move a terminal's cursor or start a new line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
