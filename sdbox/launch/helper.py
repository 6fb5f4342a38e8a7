"""The supervisor's end of the helper: starts it, and asks it for inits.

What the helper does is in `sdbox.init.helper`. This module imports no event loop before it is
needed, since `sdbox run` starts its helper before it imports the rest.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import socket
import sys
from contextlib import contextmanager

import sdbox
from sdbox.errors import LaunchFailed, ManagerGone, ManagerUnavailable, TimedOut
from sdbox.init import private, syscalls, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, NoReturn

    from sdbox.init import helper as init
    from sdbox.init.private import Private

# What of a box is made by the helper, before there is an init.
_BEFORE_INIT = (
    *("enter", "family", "nestable", "private_directories", "private_pids", "project"),
    "user_namespace",
)

Streams = tuple[int, int, int]
Answer = tuple[list[bytes], list[int]]

# The helper forks, connects and makes directories: what hangs for longer is broken. To remove a
# job's files takes as long as there are many.
_ANSWER_SECONDS = 60.0
_REMOVE_SECONDS = 3600.0
# The helper's own time-outs are shorter.
_END_SECONDS = 60.0

# Where the package is, for a Python that would not find it.
PLACE = os.path.dirname(os.path.dirname(sdbox.__file__))
_PROGRAM = (
    "import sys; sys.path.append({root!r}); from sdbox.init.helper import main;"
    " main(*{arguments}, spares=True)"
)


class Helper:
    """A running helper process. `control` is the socket to it, `pid` its process."""

    def __init__(
        self, control: socket.socket, pid: int, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.control = control
        self.pid = pid
        self._process = process
        self._answers: dict[bytes, asyncio.Future[Answer]] = {}
        self._forgotten: set[bytes] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._directories: dict[str, list[Private]] = {}
        self._gone = False
        self._spare: tuple[int, int] | None = None
        self._dialled = ""

    @classmethod
    def fork(
        cls,
        *,
        pid_namespace: int | None = None,
        cgroup: str | None = None,
        bus: str = "",
        first: Callable[[init.Helper], None] | None = None,
    ) -> Helper:
        """Fork the helper off this process, which must have one thread and little imported.

        `pid_namespace` is a process file descriptor; boxes are born in that process's namespace.
        `cgroup` is where they are born, where it can't be the caller's own. `first` is work that
        the helper does before it serves; `bus`, what it connects to before that.
        """
        ours, theirs, supervisor = _connection()
        with _children_in(pid_namespace):
            pid = os.fork()
            if pid == 0:
                _be_helper(theirs.fileno(), supervisor, cgroup, _after(bus, first))
        leave_cpu_to(pid)
        theirs.close()
        os.close(supervisor)
        helper = cls(ours, pid)
        helper._dialled = bus
        return helper

    @classmethod
    def spawn(cls, *, pid_namespace: int | None = None, cgroup: str | None = None) -> Helper:
        """Start the helper as a program of its own, from a process of any size."""
        import subprocess

        ours, theirs, supervisor = _connection()
        fds = (theirs.fileno(), supervisor)
        program = _PROGRAM.format(root=PLACE, arguments=(*fds, cgroup))
        with _children_in(pid_namespace):
            process = subprocess.Popen(
                # A fifth less memory to be copied for each process that it forks.
                [sys.executable, "-I", "-S", "-X", "no_debug_ranges", "-c", program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=fds,
                env={},
            )
        theirs.close()
        os.close(supervisor)
        return cls(ours, process.pid, process)

    def attach(self) -> None:
        """Have answers read by the running loop."""
        from sdbox import loop

        self._loop = loop.running()
        self._loop.add_reader(self.control.fileno(), self._on_answer)

    def send_launch(
        self,
        key: str,
        spec: Mapping[str, Any],
        report: socket.socket,
        streams: Streams,
        held: Sequence[int] = (),
    ) -> None:
        """Have an init forked. What came of it, `launched` tells.

        `held` are descriptors that are to be open until nothing of the box runs.
        """
        memory = os.memfd_create("sdbox-spec", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as file:
                marshal.dump(dict(spec), file)
            os.lseek(memory, 0, os.SEEK_SET)
            fds = (memory, report.fileno(), *streams, *held)
            if spare := self._spare_for(spec):
                self._use(key, fds, *spare)
            else:
                self._send("launch", key, fds)
        finally:
            os.close(memory)

    def _spare_for(self, spec: Mapping[str, Any]) -> tuple[int, int] | None:
        """Take the init that is forked already, if a box begins as that has begun."""
        if self._spare is None or any(spec[name] for name in _BEFORE_INIT):
            return None
        from sdbox.kernel.pidfd import has_ended

        spare, self._spare = self._spare, None
        if not has_ended(spare[1]):
            return spare
        os.close(spare[1])
        return None

    def _use(self, key: str, fds: tuple[int, ...], pid: int, pidfd: int) -> None:
        """Have a box begun by the spare init; the answer about that is known beforehand."""
        try:
            self._send("use", key, fds, pid)
        except BaseException:
            os.close(pidfd)
            raise
        name = os.fsencode(key)
        self._future(name).set_result(([b"forked", name, b"%d" % pid], [pidfd]))

    def _drop_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare[1])
            self._spare = None

    async def launched(self, key: str) -> tuple[int, int]:
        """Return the PID of a forked init, as the helper sees it, and its descriptor."""
        fields, fds = await self.answer(key)
        if fields[0] == b"error":
            raise _failure(fields)
        self._directories[key] = _directories(fields[3:])
        return int(fields[2]), fds[0]

    async def connect(self, path: str) -> socket.socket:
        """Return a connection to a stream socket, made by the helper."""
        if path == self._dialled:
            self._dialled = ""
        else:
            self._send("connect", path, ())
        fields, fds = await self.answer(path)
        sock = socket.socket(fileno=fds[0])
        if number := int(fields[2]):
            sock.close()
            raise ManagerUnavailable(
                f"{path}: {os.strerror(number)}", hint="`sdbox doctor` tells what is there"
            )
        return sock

    async def handed(self, key: str) -> int:
        """Return the socket in which an init that systemd starts finds what it needs."""
        fields, fds = await self.answer(key)
        if fields[0] == b"error":
            raise _failure(fields)
        self._directories[key] = _directories(fields[2:])
        return fds[0]

    def placed(self, key: str, cgroup: int, pidfd: int | None = None) -> None:
        """Tell the helper the unit's cgroup: what to end, should this process vanish.

        `pidfd`, which is the helper's from now on, stands for an init that it did not fork.
        """
        others = () if pidfd is None else (pidfd,)
        try:
            self._send("placed", key, (cgroup, *others))
        finally:
            wire.close(list(others))

    def finish(self, key: str) -> None:
        """Have the private directories of a box removed as soon as its init has ended."""
        self._send("finish", key, ())

    async def finished(self, key: str) -> str:
        """Wait for what finish() has asked for; return the directories that could not be removed.

        By then the box's init must have ended. Raises TimedOut.
        """
        directories = self._directories.pop(key, [])
        try:
            fields, _ = await self.answer(key, seconds=_REMOVE_SECONDS)
        except ManagerGone:
            # Init removes them before it goes, unless it was killed with the helper, as by the end
            # of their PID namespace.
            return private.remove(directories)
        return os.fsdecode(fields[2])

    def check(self) -> None:
        """Raise ManagerGone where the helper has ended."""
        poll = select.poll()
        if self.control.fileno() >= 0:
            # Asked for nothing, poll(2) tells of a hang-up.
            poll.register(self.control, 0)
        if self._gone or poll.poll(0):
            raise _helper_gone()

    def forget(self, key: str) -> None:
        """Have what is left of a launch that failed cleaned up, without waiting."""
        name = os.fsencode(key)
        self._drop(name)
        self._forgotten.add(name)
        directories = self._directories.pop(key, [])
        try:
            self._send("finish", key, ())
        except ManagerUnavailable:
            # It was killed, and maybe init with it, as by the end of their PID namespace.
            private.remove(directories)

    async def close(self) -> None:
        """Hang up, and wait for the helper to end what boxes are left, and itself."""
        from sdbox import loop

        loop.running().remove_reader(self.control.fileno())
        self.control.close()
        self._drop_spare()
        pidfd = os.pidfd_open(self.pid)
        try:
            async with loop.within(_END_SECONDS, "The end of the helper"):
                await loop.readable(pidfd)
        except TimedOut:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
        self._reap()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
        else:
            os.waitpid(self.pid, 0)

    async def answer(self, key: str, *, seconds: float = _ANSWER_SECONDS) -> Answer:
        """Return the fields and descriptors of the helper's answer about `key`.

        Raises ManagerUnavailable when the helper has ended, and TimedOut.
        """
        from sdbox import loop

        name = os.fsencode(key)
        try:
            async with loop.within(seconds, "An answer of the helper"):
                answer = await self._future(name)
        except BaseException:
            # It may have come in the moment in which its reader was cancelled.
            self._drop(name)
            raise
        del self._answers[name]
        return answer

    def _drop(self, name: bytes) -> None:
        """Close the descriptors of an answer that nobody will read."""
        answer = self._answers.pop(name, None)
        if answer is None or not answer.done() or answer.cancelled():
            return
        if answer.exception() is None:
            wire.close(answer.result()[1])

    def _future(self, name: bytes) -> asyncio.Future[Answer]:
        """Return where an answer goes, whether it or its reader comes first."""
        if self._loop is None:
            raise RuntimeError("attach() comes first")
        if name not in self._answers:
            self._answers[name] = self._loop.create_future()
            if self._gone:
                self._answers[name].set_exception(_helper_gone())
        return self._answers[name]

    def _send(self, verb: str, key: str, fds: tuple[int, ...], *more: int) -> None:
        try:
            wire.send(self.control, verb, key, *more, fds=fds)
        except OSError as error:
            raise _helper_gone() from error

    def _on_answer(self) -> None:
        fields, fds = wire.receive(self.control)
        if not fields:
            self._on_gone()
        elif fields[0] == b"spare":
            self._drop_spare()
            self._spare = int(fields[2]), fds[0]
        elif fields[1] in self._forgotten:
            wire.close(fds)
            if fields[0] == b"finished":
                self._forgotten.discard(fields[1])
        else:
            answer = self._future(fields[1])
            if answer.done():
                # Its reader was cancelled.
                wire.close(fds)
            else:
                answer.set_result((fields, fds))

    def _on_gone(self) -> None:
        self._gone = True
        if self._loop is not None:
            self._loop.remove_reader(self.control.fileno())
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_helper_gone())


def _after(
    bus: str, first: Callable[[init.Helper], None] | None
) -> Callable[[init.Helper], None] | None:
    """Return the helper's first work, with a connection made before it where one is wanted."""
    if not bus or first is None:
        return first

    def connect_first(helper: init.Helper) -> None:
        helper.connect(os.fsencode(bus))
        first(helper)

    return connect_first


def leave_cpu_to(child: int) -> bool:
    """Go to another CPU, if there is one, where a child waits for this one. Return whether it was.

    In a virtual machine it may wait up to the kernel's next tick, although another CPU is idle: one
    that has halted counts as one that the hypervisor has taken away (Linux, available_idle_cpu()).
    """
    try:
        allowed, own = os.sched_getaffinity(0), _cpu_of(os.getpid())
        others = allowed - {own}
        if not others or _cpu_of(child) != own:
            return False
        os.sched_setaffinity(0, others)
        os.sched_setaffinity(0, allowed)
    except OSError:
        # It takes longer, that is all.
        return False
    return True


def _cpu_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        # proc_pid_stat(5): `processor`. The name before may hold anything.
        return int(file.read().rpartition(b")")[2].split()[36])


def _be_helper(
    control: int,
    supervisor: int,
    cgroup: str | None,
    first: Callable[[init.Helper], None] | None,
) -> NoReturn:
    """Never return from the child of a fork."""
    from sdbox.init.helper import main

    try:
        main(control, supervisor, cgroup, first)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def _directories(fields: Sequence[bytes]) -> list[Private]:
    paths, *numbers = fields[::3], fields[1::3], fields[2::3]
    devices, inodes = (map(int, some) for some in numbers)
    return list(zip(map(os.fsdecode, paths), devices, inodes, strict=True))


def _failure(fields: Sequence[bytes]) -> LaunchFailed:
    from sdbox.launch.failures import launch_error

    return launch_error(*fields[2:])


def _helper_gone() -> ManagerGone:
    return ManagerGone(
        "The helper process of this launcher has ended",
        hint="Its boxes have ended with it; make a new Launcher",
    )


def _connection() -> tuple[socket.socket, socket.socket, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return ours, theirs, os.pidfd_open(os.getpid())


@contextmanager
def _children_in(pid_namespace: int | None) -> Iterator[None]:
    """Have this thread's children born in another PID namespace."""
    if pid_namespace is None:
        yield
        return
    own = os.pidfd_open(os.getpid())
    try:
        syscalls.setns(pid_namespace, syscalls.CLONE_NEWPID)
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWPID)
    finally:
        os.close(own)
