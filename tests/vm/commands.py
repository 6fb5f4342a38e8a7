"""Other programs: run to their end within a time, never left behind."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from .errors import TierFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LAST_LINES = 20
# setpriv(1): the command dies with us, however we end.
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
# unshare(1): mounts of its own, and with the command's end all that it has started ends as well.
APART = (*WITH_US, "unshare", "--mount", "--propagation", "private", "--pid", "--fork")
APART = (*APART, "--kill-child=KILL", "--mount-proc", "--")


def output(command: Sequence[str | Path], *, seconds: float, **options: object) -> str:
    """Run a command and return its stdout. TierFailed if it fails, with its last words."""
    done = _run(command, seconds, subprocess.PIPE, **options)
    return str(done.stdout)


def run(command: Sequence[str | Path], *, seconds: float, **options: object) -> None:
    """Run a command for its effect. TierFailed if it fails, with its last words."""
    _run(command, seconds, subprocess.STDOUT, **options)
