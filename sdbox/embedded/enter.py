"""Runs a command inside the embedded manager, as docker exec does in a container."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.embedded import needs, state
from sdbox.init import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import NoReturn

    Handler = Callable[[int, FrameType | None], object] | int | None

_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)
# The terminal sends these to the command as well as to us.
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def execute(manager: state.Embedded, command: Sequence[str]) -> int:
    """Run the command, wait for it, and return its wait status as waitpid(2) has it."""
    directory = _working_directory()
    _enter(manager)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*_FROM_TERMINAL, *_PASSED_ON))
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _become(command, directory)
    pidfd = os.pidfd_open(pid)
    handlers = _guard(pidfd)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        return os.waitpid(pid, 0)[1]
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(pidfd)


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        # It was removed under the caller.
        return Path("/")


def _enter(manager: state.Embedded) -> None:
    pidfd = manager.open_pidfd()
    root = os.open(manager.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # First the cgroup, by its path out here: see Embedded.launch_cgroup.
        Path(manager.launch_cgroup, "cgroup.procs").write_text("0")
        syscalls.setns(pidfd, _NAMESPACES)
        # setns(2) leads to the root of the mounts, which is not the manager's in a chroot.
        os.fchdir(root)
        os.chroot(".")
    finally:
        os.close(root)
        os.close(pidfd)


def _guard(pidfd: int) -> dict[int, Handler]:
    """Leave the terminal's signals to the command, and pass on what was sent to us alone."""

    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)

    handlers: dict[int, Handler] = {}
    for number in _FROM_TERMINAL:
        handlers[number] = signal.signal(number, signal.SIG_IGN)
    for number in _PASSED_ON:
        handlers[number] = signal.signal(number, pass_on)
    return handlers


def _become(command: Sequence[str], directory: Path) -> NoReturn:
    status = 126
    try:
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        os.chdir(directory if directory.is_dir() else "/")
        os.execvpe(command[0], list(command), {"PATH": needs.PATH, **os.environ})
    except FileNotFoundError:
        status = 127
        _complain(command[0], "no such program")
    except OSError as error:
        _complain(command[0], error.strerror or str(error))
    finally:
        os._exit(status)


def _complain(program: str, reason: str) -> None:
    os.write(2, b"sdbox: " + os.fsencode(program) + f": {reason}\n".encode())
