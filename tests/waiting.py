"""Waiting for what nothing tells of, and for one who waits."""

from __future__ import annotations

import contextlib
import select
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.pace import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Sdbox

SECONDS = seconds(30)


def waiting(sdbox: Sdbox, *words: str, count: int = 0) -> subprocess.Popen[str]:
    """`sdbox wait`, once it has found its jobs, a `count` of them or as many as are named."""
    process = subprocess.Popen(
        [*sdbox.command, "wait", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # It watches each cgroup, and the slice above of all.
    jobs = count or len([word for word in words if not word.startswith("-")])
    wait_until(lambda: process.poll() is not None or _watches(process.pid) > jobs)
    return process


def _watches(pid: int) -> int:
    """How many files a process has inotify(7) watch."""
    found = 0
    for path in Path(f"/proc/{pid}/fdinfo").glob("*"):
        with contextlib.suppress(OSError):
            found += path.read_text().count("inotify wd:")
    return found


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end
        select.select([], [], [], 0.01)
