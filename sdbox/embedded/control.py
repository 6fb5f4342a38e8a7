"""Starts and stops the embedded manager, one caller at a time."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.embedded import cgroups, needs, state
from sdbox.errors import ManagerRefused, ManagerUnavailable, TimedOut
from sdbox.init import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdbox.embedded.state import Embedded

_PROGRAM = "import sys; sys.path.append({root!r}); from sdbox.embedded.boot import main; main()"
_PACKAGE = Path(__file__).absolute().parent.parent
JOBS_SLICE = "sdbox.slice"
# The booting process keeps the deadline itself; this much later it is given up on.
_GRACE_SECONDS = 5.0
_KILL_SECONDS = 10.0
# systemd(1): systemd as a system manager powers off on SIGRTMIN+4.
_POWEROFF = signal.SIGRTMIN + 4


def start(timeout: float, name: str, directory: str) -> Embedded:
    """See `sdbox.embedded.start`."""
    found = needs.check()
    with _locked(name, directory, timeout) as lock:
        manager = state.find(name=name, directory=directory)
        if manager is None:
            _clear_remains(found, name)
            try:
                _boot(found, name, directory, lock, timeout)
            except BaseException:
                _clear(found, name)
                raise
            manager = state.find(name=name, directory=directory)
    if manager is None:
        raise ManagerUnavailable("The embedded manager ended as soon as it was ready")
    return manager


def stop(timeout: float, name: str, directory: str, *, force: bool) -> bool:
    """See `sdbox.embedded.stop`."""
    with _locked(name, directory, timeout):
        manager = state.last(name=name, directory=directory)
        running = manager is not None and manager.alive()
        if manager is not None:
            if running:
                _end_jobs(manager, force=force)
                _shut_down(manager, timeout)
            # One that was killed, or crashed, has left these two as well.
            cgroups.remove(Path(manager.cgroup_root), _KILL_SECONDS)
            Path(manager.state_file).unlink()
    return running


def _end_jobs(manager: Embedded, *, force: bool) -> None:
    """Kill the jobs, which might take all the time they like for a SIGTERM."""
    jobs = count_jobs(manager)
    if jobs and not force:
        raise ManagerRefused(
            f"{jobs} {'job is' if jobs == 1 else 'jobs are'} running in the embedded manager",
            name="sdbox.JobsRunning",
            hint="Wait for the end, or end them with --force",
        )
    if jobs:
        cgroups.kill(Path(manager.cgroup_root, JOBS_SLICE), _KILL_SECONDS)


def count_jobs(manager: Embedded) -> int:
    """Return how many units there are in sdbox.slice, at any depth."""
    return cgroups.count_units(Path(manager.cgroup_root, JOBS_SLICE))


def _shut_down(manager: Embedded, timeout: float) -> None:
    pidfd = manager.open_pidfd()
    try:
        signal.pidfd_send_signal(pidfd, _POWEROFF)
        if not _ended(pidfd, timeout):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not _ended(pidfd, _KILL_SECONDS):
                raise TimedOut(
                    f"The embedded manager (PID {manager.pid}) does not die",
                    hint="A process in it is in uninterruptible sleep: see `ps -eo pid,stat,wchan`",
                )
    finally:
        os.close(pidfd)


def _ended(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _clear_remains(found: needs.Needs, name: str) -> None:
    """Remove the cgroups of a manager that was killed; refuse if something is alive in them."""
    cgroup = cgroups.manager_root(found.cgroup_mount, found.cgroup_parent, name)
    if not cgroup.is_dir():
        return
    if cgroups.populated(cgroup):
        raise ManagerUnavailable(
            f"{cgroup} has processes, of an embedded manager that is not in reach from here",
            hint=f"Use it from where it was started, or end it: echo 1 > {cgroup}/cgroup.kill",
        )
    cgroups.remove(cgroup, _KILL_SECONDS)


def _clear(found: needs.Needs, name: str) -> None:
    """Remove what a boot that failed has left, a systemd that no one waits for included."""
    cgroup = cgroups.manager_root(found.cgroup_mount, found.cgroup_parent, name)
    cgroups.remove(cgroup, _KILL_SECONDS)


def _boot(found: needs.Needs, name: str, directory: str, lock: int, timeout: float) -> None:
    """Have a process of its own boot the manager, and wait for what it reports."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = (
        theirs.fileno(),
        lock,
        name,
        directory,
        found.systemd,
        found.systemd_version,
        _units(),
        found.cgroup_mount,
        found.cgroup_parent,
        timeout,
    )
    with ours:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM.format(root=str(_PACKAGE.parent))]
            + [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The lock goes along: it is held until the boot is over, even if we are killed.
            pass_fds=(theirs.fileno(), lock),
            start_new_session=True,
            cwd="/",
            env={},
        )
        theirs.close()
        try:
            _check_report(ours, timeout + _GRACE_SECONDS)
        finally:
            process.kill()
            process.wait()


def _check_report(ours: socket.socket, timeout: float) -> None:
    ours.settimeout(timeout)
    try:
        fields, _ = wire.receive(ours)
    except TimeoutError:
        raise TimedOut(f"The embedded manager did not boot in {timeout:.0f} s") from None
    if fields == [b"ready"]:
        return
    if not fields:
        raise ManagerUnavailable("The process that boots the embedded manager was killed")
    _, step, path, number = (os.fsdecode(field) for field in fields)
    raise _boot_failure(step, path, int(number))


def _boot_failure(step: str, path: str, number: int) -> ManagerUnavailable:
    where = f"{step} {path}".strip()
    reason = f": {os.strerror(number)}" if number else ""
    return ManagerUnavailable(
        f"The embedded manager can't boot: {where}{reason}",
        hint=_HINTS.get(number, ""),
    )


_NEEDS_PRIVILEGES = "In a container it needs CAP_SYS_ADMIN: docker run --privileged"
_HINTS = {
    errno.EPERM: _NEEDS_PRIVILEGES,
    errno.EACCES: _NEEDS_PRIVILEGES,
    errno.ENOSYS: "The kernel is too old: sdbox needs Linux 5.14",
}


def _units() -> Path:
    """Return what the manager's /run starts with: in the package, or in a checkout beside it."""
    installed = _PACKAGE / "units" / "embedded"
    return installed if installed.is_dir() else _PACKAGE.parent / "units" / "embedded"


@contextmanager
def _locked(name: str, directory: str, timeout: float) -> Iterator[int]:
    """Hold the manager's lock, in a directory that only root can enter."""
    import fcntl

    folder = _open_directory(directory)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(f"{name}.lock", flags, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for_lock(lock, timeout)
        yield lock
    finally:
        os.close(lock)


def _wait_for_lock(lock: int, timeout: float) -> None:
    """Take the lock in time. flock(1) takes it for us: it is the open file's, not a process's."""
    command = ["flock", "--exclusive", "--timeout", f"{timeout:.3f}", str(lock)]
    environment = {"PATH": needs.PATH}
    started = time.monotonic()
    if subprocess.run(command, pass_fds=(lock,), env=environment, check=False).returncode != 0:
        waited = time.monotonic() - started
        raise TimedOut(
            f"Another process has been starting or stopping the embedded manager for {waited:.0f} s"
        )


def _open_directory(directory: str) -> int:
    """Make and open the directory of the state file. Refuse one that others can write or enter."""
    Path(directory).mkdir(mode=0o700, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(fd)
        raise ManagerUnavailable(
            f"{directory} is not a directory of root's alone",
            hint=f"See what made it, then: rm -r {directory}",
        )
    return fd
