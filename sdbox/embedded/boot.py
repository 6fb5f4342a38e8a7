"""Boots the embedded manager: a small process of its own, which stays until systemd is ready.

It forks once. The child becomes PID 1 of the new namespaces, arranges what systemd will see,
and executes it; this process waits for its readiness, writes the state file, tells its starter,
and ends. Standard library only, run as `python -I -S`, with no descriptor, environment or
terminal of the starter's.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from sdbox.embedded import first, state
from sdbox.init import syscalls, wire
from sdbox.init.steps import StepError, step
from sdbox.kernel.credentials import CREDENTIALS

# include/uapi/asm-generic/resource.h; the same for every architecture.
RLIM_NLIMITS = 16
# Those that systemd hands down to its units (systemd.resource-control(5)).
CONTROLLERS = frozenset({"cpu", "cpuset", "io", "memory", "pids"})


def main() -> None:
    """Boot what the arguments ask for, and report `ready`, or `failed` and why."""
    report_fd, lock_fd, *arguments = sys.argv[1:]
    for fd in (report_fd, lock_fd):
        os.set_inheritable(int(fd), False)
    report = socket.socket(fileno=int(report_fd))
    try:
        with step("boot"):
            _forget_caller()
            _boot_and_record(*arguments)
    except StepError as error:
        wire.send(report, "failed", error.name, error.path, error.number)
    else:
        wire.send(report, "ready")


def _boot_and_record(
    name: str,
    directory: str,
    systemd: str,
    version: str,
    units: str,
    mount: str,
    parent: str,
    seconds: str,
) -> None:
    deadline = time.monotonic() + float(seconds)
    cgroup = _make_cgroup(mount, parent, f"sdbox-{name}")
    pid = _boot(systemd, units, mount + cgroup, deadline)
    manager = state.Embedded(
        name=name,
        directory=directory,
        pid=pid,
        start_time=state.start_time(pid),
        boot_id=state.boot_id(),
        pid_namespace=state.pid_namespace(),
        since=int(time.time()),
        systemd_version=int(version),
        cgroup_mount=mount,
        cgroup=cgroup,
    )
    with step("state", manager.state_file):
        state.write(manager)


def _forget_caller() -> None:
    """Become like a daemon that the machine itself started, as far as a container's root may."""
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.umask(0o022)
    os.chdir("/")
    for number in range(RLIM_NLIMITS):
        # Raising a limit needs CAP_SYS_RESOURCE.
        with suppress(ValueError, OSError):
            resource.setrlimit(number, resource.prlimit(1, number))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("0")
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    # The kernel leaves out the CPUs that are not ours to use.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _make_cgroup(mount: str, parent: str, name: str) -> str:
    """Make the manager's own cgroup, with every controller that its parent can hand down."""
    above = mount + parent.rstrip("/")
    enabled = _words(f"{above}/cgroup.subtree_control")
    for controller in _words(f"{above}/cgroup.controllers") & CONTROLLERS - enabled:
        # Processes in the parent forbid it (cgroups(7), "no internal processes"). The manager then
        # runs without that controller, and its cgroup.controllers says so to whoever asks.
        with suppress(OSError):
            Path(above, "cgroup.subtree_control").write_text(f"+{controller}")
    with step("cgroup"):
        Path(above, name, state.LAUNCH_CGROUP).mkdir(parents=True)
    return f"{parent.rstrip('/')}/{name}"


def _boot(systemd: str, units: str, cgroup: str, deadline: float) -> int:
    """Return the PID of a systemd that is ready."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    # The network namespace is shared, so an abstract name, chosen by the kernel, reaches across
    # the mount namespaces. Anyone may write to it: the sender's credentials decide.
    notify.bind("")
    notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    errors, child_errors = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with step("unshare"):
        syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        first.become_systemd(systemd, units, cgroup, notify.getsockname(), child_errors)
    child_errors.close()
    pidfd = os.pidfd_open(pid)
    try:
        _wait_set_up(errors, deadline)
        _wait_ready(notify, pid, pidfd, deadline)
        _check_bus(pid, deadline)
    except StepError:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        raise
    return pid


def _wait_set_up(errors: socket.socket, deadline: float) -> None:
    """Wait until the child has executed systemd, which closes its end."""
    errors.settimeout(max(deadline - time.monotonic(), 0.001))
    with step("set up in time"):
        fields, _ = wire.receive(errors)
    if fields:
        name, path, number = fields
        raise StepError(os.fsdecode(name), os.fsdecode(path), int(number))


def _wait_ready(notify: socket.socket, pid: int, pidfd: int, deadline: float) -> None:
    """Wait for READY=1 from systemd itself, its end, or the deadline."""
    poll = select.poll()
    poll.register(notify, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        ready = {fd for fd, _ in poll.poll(left * 1000)}
        if notify.fileno() in ready:
            if _is_ready(notify, pid):
                return
        elif pidfd in ready:
            raise StepError("systemd ended", "", 0)
    raise StepError("systemd was not ready in time", _last_words(pid), 0)


def _check_bus(pid: int, deadline: float) -> None:
    """See that behind the socket, which systemd holds, there is a bus that talks."""
    bus = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    bus.settimeout(max(deadline - time.monotonic(), 0.001))
    with step("D-Bus", "/run/dbus/system_bus_socket"), bus:
        bus.connect(f"/proc/{pid}/root/run/dbus/system_bus_socket")
        # D-Bus Specification, "Authentication Protocol": 30 is uid 0 in hexadecimal ASCII.
        bus.sendall(b"\0AUTH EXTERNAL 30\r\n")
        if not bus.recv(256).startswith(b"OK "):
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _is_ready(notify: socket.socket, pid: int) -> bool:
    data, ancillary, _, _ = notify.recvmsg(
        4096, socket.CMSG_SPACE(CREDENTIALS.size), socket.MSG_CMSG_CLOEXEC
    )
    senders = [
        CREDENTIALS.unpack(payload)[0]
        for level, kind, payload in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
    ]
    return senders == [pid] and b"READY=1" in data.split(b"\n")


def _last_words(pid: int) -> str:
    """Return the last line that systemd logged before there was a journal."""
    try:
        log = Path(f"/proc/{pid}/root{first.BOOT_LOG}").read_text(errors="replace")
        return log.strip("\0\n").rpartition("\n")[2]
    except OSError:
        return ""


def _words(file: str) -> set[str]:
    return set(Path(file).read_text().split())
