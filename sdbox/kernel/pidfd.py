"""What the kernel tells of a process that a process file descriptor stands for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select

from sdbox.errors import LaunchFailed, SdboxError

# ioctl_ns(2)
_NS_GET_PARENT = 0xB702


def pid_of(pidfd: int) -> int:
    """Return the PID that a process descriptor stands for in this process's namespace."""
    return _numbers("Pid:", pidfd)[0]


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


def pid_in(namespace: int | None, pidfd: int) -> int:
    """Return the PID that a process has in the PID namespace of another one, right below this.

    `namespace` is a descriptor of that other process; None is for this one's own. Raises
    LaunchFailed for a process that is not in there.
    """
    # Here, in the namespace below, and so on.
    pids = _numbers("NSpid:", pidfd)
    if namespace is None:
        return pids[0]
    if len(pids) < 2 or _namespace_below(pids) != _namespace_of(pid_of(namespace)):
        raise LaunchFailed(f"PID {pids[0]} is not in the manager's PID namespace")
    return pids[1]


def _numbers(field: str, pidfd: int) -> list[int]:
    """Return what /proc says of a process descriptor. Raises SdboxError."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(field):
                return [int(word) for word in line.split()[1:]]
    raise SdboxError(
        f"/proc shows no {field.removesuffix(':')} for a descriptor that is to be a process's",
        hint="Mount /proc of this PID namespace",
    )


def _namespace_of(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/pid").st_ino


def _namespace_below(pids: list[int]) -> int:
    """Return the number of the namespace right below this one, above or of a process in it."""
    fd = os.open(f"/proc/{pids[0]}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for _ in pids[2:]:
            above = fcntl.ioctl(fd, _NS_GET_PARENT)
            os.close(fd)
            fd = above
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)
