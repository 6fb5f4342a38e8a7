"""What the kernel tells of a process that a process file descriptor stands for."""

from __future__ import annotations

import contextlib
import select

from sdbox.errors import LaunchFailed, SdboxError


def pid_of(pidfd: int) -> int:
    """Return the PID that a process descriptor stands for in this process's namespace."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    raise LaunchFailed("/proc shows no PID for init", hint="Mount /proc of this PID namespace")


def is_stopped(pidfd: int) -> bool:
    """Whether a process is stopped by a signal at this moment."""
    with (
        contextlib.suppress(OSError, SdboxError),
        open(f"/proc/{pid_of(pidfd)}/stat", "rb") as file,
    ):
        # proc_pid_stat(5): the state follows the name, which may hold anything.
        return file.read().rpartition(b")")[2].split()[0] == b"T"
    return False


def has_ended(pidfd: int) -> bool:
    """Whether a process has ended by this moment."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
