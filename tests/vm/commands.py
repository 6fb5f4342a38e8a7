"""Other programs: run to their end within a time, never left behind."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from .errors import TierFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_LAST_LINES = 20
# setpriv(1): the command dies with us, however we end.
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
# unshare(1): it has mounts of its own, and takes along all that it has started.
APART = (
    *WITH_US,
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"),
)


def run(
    command: Sequence[str | Path], *, seconds: float, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command and return its stdout. TierFailed, with its last words, if it fails."""
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env=environment,
        )
    except FileNotFoundError as error:
        raise TierFailed(f"There is no program {error.filename}") from error
    except subprocess.TimeoutExpired as error:
        raise TierFailed(f"{_name(command)} did not end in {seconds:g} s") from error
    except subprocess.CalledProcessError as error:
        words = "\n".join((error.stdout + error.stderr).splitlines()[-_LAST_LINES:])
        raise TierFailed(f"{_name(command)} failed ({error.returncode}):\n{words}") from error
    return done.stdout


def _name(command: Sequence[str | Path]) -> str:
    words = [str(word) for word in command]
    return words[words.index("--") + 1] if "--" in words else words[0]
