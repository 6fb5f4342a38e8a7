"""Init as a service's main process, which systemd starts: it comes to where a child would be.

On its stdin is a socket in which the helper has left what init has from a fork elsewhere:

    box     spec and private directories, root directory, supervisor, helper, report socket,
            stdin, stdout, stderr, and what the box's end is to let go of

It enters the namespaces of whoever asked for the job, says `born`, with process descriptors of
itself, and from there on is the same as a scope's.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import socket
import termios

from sdbox.init import signals, syscalls, wire
from sdbox.init.descriptors import close_all_but
from sdbox.init.main import Init
from sdbox.init.steps import StepError, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# Of the descriptors that are handed over, those from here on are only held.
_HELD = 8


def main() -> NoReturn:
    """Be the main process of a service, which ends as the box's init does."""
    signals.take_none()
    with socket.socket(fileno=os.dup(0)) as handed:
        fields, fds = wire.receive(handed)
    if not fields:
        # Who asked for the job is gone.
        os._exit(1)
    memory, root, supervisor, helper, report, *streams = fds[:_HELD]
    with open(memory, "rb") as file:
        file.seek(0)
        spec, directories = marshal.load(file)  # noqa: S302 - from the helper
    sock = socket.socket(fileno=report)
    try:
        enter(supervisor, root, spec["enter"])
        inits = _first_of_its_namespace(spec)
    except StepError as error:
        wire.send(sock, "error", error.name, error.path, error.number)
        os._exit(1)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    if os.getsid(0) != os.getpid():
        # It has been forked: here, or by systemd 257, in both cases for PrivatePIDs=.
        os.setsid()
    if spec["terminal"]:
        # This process leads the session, which has no terminal yet.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    wire.send(sock, "born", fds=inits)
    # The process that systemd knows is one that the box must not outlive, either.
    guardians = (supervisor, helper, *inits[1:])
    close_all_but({0, 1, 2, sock.fileno(), *guardians, *fds[_HELD:]})
    Init(spec, sock, guardians, directories, placed=True).run()


def enter(process: int, root: int, namespaces: int) -> None:
    """Go to the namespaces of a process, and to its root directory.

    An ordinary user may not, and has to be there already.
    """
    if os.geteuid() != 0:
        _check_is_there(process, root, namespaces)
        return
    with step("setns"):
        syscalls.setns(process, namespaces)
    with step("chroot"):
        os.fchdir(root)
        os.chroot(".")


# Their files in /proc/PID/ns.
_NAMES = {
    syscalls.CLONE_NEWNS: "mnt",
    syscalls.CLONE_NEWUTS: "uts",
    syscalls.CLONE_NEWCGROUP: "cgroup",
    syscalls.CLONE_NEWNET: "net",
    syscalls.CLONE_NEWIPC: "ipc",
}


def _check_is_there(process: int, root: int, namespaces: int) -> None:
    with step("setns"):
        with open(f"/proc/self/fdinfo/{process}", encoding="utf-8") as lines:
            pid = next(line.split()[1] for line in lines if line.startswith("Pid:"))
        for flag, name in _NAMES.items():
            own, other = (os.stat(f"/proc/{one}/ns/{name}") for one in ("self", pid))
            if namespaces & flag and not os.path.samestat(own, other):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
        if not os.path.samestat(os.fstat(root), os.stat("/")):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "/")


def _first_of_its_namespace(spec: dict[str, Any]) -> tuple[int, ...]:
    """Return descriptors of this process and, where that must stay, of the one that it was.

    systemd 257 has PrivatePIDs= itself, and this is PID 1 then.
    """
    this = os.pidfd_open(os.getpid())
    if not spec["private_pids"] or os.getpid() == 1:
        return (this,)
    if spec["user_namespace"]:
        from sdbox.init import userns

        child = userns.fork()
    else:
        with step("PrivatePIDs"):
            syscalls.unshare(syscalls.CLONE_NEWPID)
            child = os.fork()
    if child:
        _end_with(child)
    return os.pidfd_open(os.getpid()), this


def _end_with(child: int) -> NoReturn:
    """Be the main process that systemd knows, while a child is init."""
    close_all_but({0, 1, 2})
    # A /dev/null is not in every box.
    nothing = os.open("/", os.O_PATH | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
