"""The helper: a small process that forks the inits, so that the supervisor never has to.

A supervisor may be a large program with threads, which must not fork without exec. The helper
stays in the supervisor's cgroup. It owns what must outlive a box by a moment: the private
directories, and the duty to end every box when the supervisor is gone.

    launch KEY     spec, report socket, stdin, stdout, stderr,
                   and what the box's end is to let go of
                                               -> forked KEY PID PRIVATE...    + pidfd
                                            or -> error KEY STEP PATH ERRNO
                   for a service, whose init systemd starts
                                               -> handed KEY PRIVATE...        + socket
                                                  spare "" PID                 + pidfd
    use KEY PID    as launch, of the init that was told of as spare, if the box has nothing that
                   is made before its init
    placed KEY     the unit's cgroup directory
    connect PATH                               -> connected PATH ERRNO         + socket
    finish KEY     when the unit is gone; every key ends with it
                                               -> finished KEY [DIRECTORY]

PRIVATE is a private directory: its path, its device and its inode.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence

from sdbox.init import birth, private, signals, syscalls, wire
from sdbox.init.child import Child, give_up_door, give_up_limit
from sdbox.init.descriptors import close_all_but
from sdbox.init.spare import HELD, Spare
from sdbox.init.steps import StepError
from sdbox.init.title import set_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sdbox.init.private import Private

# How long the boxes of a vanished supervisor may take to die: a process in uninterruptible sleep
# dies when its input or output is done.
_END_SECONDS = 30.0

# How long it may take somebody to kill all processes of a unit, one after the other.
_MOMENT_SECONDS = 0.2

# How long an init may take to notice that the supervisor is gone, and to end.
_INIT_SECONDS = 10.0


class Helper:
    """Serves one supervisor, known by its process descriptor, until that ends or hangs up.

    `spares`: whether there is to be an init that is forked ahead of the next launch.
    """

    def __init__(self, control: socket.socket, supervisor: int, *, spares: bool) -> None:
        self.control = control
        self.supervisor = supervisor
        self.spares = spares
        self.self_pidfd = os.pidfd_open(os.getpid())
        self.children: dict[bytes, Child] = {}
        self.removers: set[int] = set()
        self.ended: dict[int, Callable[[int], None]] = {}
        self.poll = select.poll()
        self.spare: Spare | None = None
        # Every init inherits that.
        signals.take_none()

    def close_others(self) -> None:
        """Close every descriptor that came from the supervisor but for those of use."""
        held = {fd for child in self.children.values() for fd in child.held}
        own = {self.control.fileno(), self.supervisor, self.self_pidfd, *self.ended, *held}
        close_all_but({0, 1, 2, *own})

    def run(self) -> NoReturn:
        """Serve, then end what is left."""
        self.poll.register(self.control, select.POLLIN)
        self.poll.register(self.supervisor, select.POLLIN)
        self._make_spare()
        while self._serve_once():
            pass
        self._end_all()
        os._exit(0)

    def _serve_once(self) -> bool:
        for fd, _ in self.poll.poll():
            if fd == self.supervisor:
                return False
            if fd == self.control.fileno():
                if not self._handle_request():
                    return False
            elif fd in self.ended:
                self.ended.pop(fd)(fd)
        return True

    def tell(self, *fields: bytes | str | int, fds: tuple[int, ...] = ()) -> None:
        """Send the supervisor a message, if it still listens."""
        try:
            wire.send(self.control, *fields, fds=fds)
        except ConnectionError:
            # It has hung up, and the next look at the socket says so: first end what is left.
            pass

    def _handle_request(self) -> bool:
        fields, fds = wire.receive(self.control)
        if not fields:
            return False
        verb, key, *more = fields
        if verb == b"launch":
            self._launch(key, fds)
        elif verb == b"use":
            self._use(key, int(more[0]), fds)
        elif verb == b"placed":
            self._placed(key, *fds)
        elif verb == b"finish":
            self._finish(key)
        elif verb == b"connect":
            self.connect(key)
        return True

    def connect(self, path: bytes) -> None:
        """Connect to a manager's bus from within its PID namespace.

        systemd ends itself by an assertion when it asks for the PID of a sender that has none
        there (bus-creds.c in systemd 252).
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with sock:
            number = sock.connect_ex(os.fsdecode(path))
            self.tell("connected", path, number, fds=(sock.fileno(),))

    def _launch(self, key: bytes, fds: list[int]) -> None:
        self.launch(key, wire.spec(fds[0]), fds[1:])
        wire.close(fds)

    def _use(self, key: bytes, pid: int, fds: list[int]) -> None:
        """Give a launch to the spare init, whose PID the supervisor goes on with already.

        Where that is not there any more, init's report says so, which is closed with the rest.
        """
        spare = self.spare
        if spare is not None and spare.pid == pid:
            self.spare = None
            self.poll.unregister(spare.pidfd)
            spare.give(fds)
            self.children[key] = Child(spare.pid, spare.pidfd, {}, fds[1 + HELD :])
            self._await_end(spare.pidfd, lambda fd: self._reap(key))
        wire.close(fds)

    def _make_spare(self) -> None:
        """Fork an init for the next launch, if that is wanted and there is none."""
        if self.spares and self.spare is None:
            self.spare = Spare((self.supervisor, self.self_pidfd))
            self._await_end(self.spare.pidfd, self._spare_ended)
            self.tell("spare", "", self.spare.pid, fds=(self.spare.pidfd,))

    def _spare_ended(self, pidfd: int) -> None:
        """Take note that somebody has killed it."""
        self.poll.unregister(pidfd)
        if self.spare is not None:
            self.spare.reap()
        self.spare = None

    def launch(self, key: bytes, spec: dict[str, Any], fds: Sequence[int]) -> None:
        """Fork an init, which gets a report socket, its streams and what to hold, and tell."""
        directories: dict[str, Private] = {}
        begin = self._hand_over if spec["enter"] else self._fork_child
        held: list[int] = []
        try:
            if spec["project"]:
                birth.limit(spec["project"], fds[HELD:])
            if spec["nestable"]:
                held = birth.reserve_door(spec)
            for destination, parent in spec["private_directories"]:
                directive = "RootEphemeral" if destination == "/" else "PrivateTmp"
                directories[destination] = private.make(
                    directive, parent, spec["job"], spec["project"]
                )
            if spec["secure_root"] and spec["user_namespace"]:
                # In there nothing is root's.
                spec["verified_root"] = birth.verified(spec["root_directory"])
            begin(key, spec, [*fds, *held], directories)
            if held:
                self.children[key].door = spec["door"]
        except StepError as error:
            private.remove(directories.values())
            if spec["project"]:
                give_up_limit(spec["project"], fds[HELD:])
            self.tell("error", key, error.name, error.path, error.number)
        finally:
            wire.close(held)
            if held and key not in self.children:
                give_up_door(spec["door"])

    def _fork_child(
        self, key: bytes, spec: dict[str, Any], fds: Sequence[int], directories: dict[str, Private]
    ) -> None:
        if spec["family"]:
            # Of an init that is killed the children become this process's.
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        pid = birth.fork(spec, fds, directories, (self.supervisor, self.self_pidfd))
        pidfd = os.pidfd_open(pid)
        self.children[key] = child = Child(pid, pidfd, directories, fds[HELD:], spec["project"])
        child.orphans = spec["family"] and not spec["private_pids"]
        self._await_end(pidfd, lambda fd: self._reap(key))
        self.tell("forked", key, pid, *_told(directories), fds=(pidfd,))

    def _hand_over(
        self, key: bytes, spec: dict[str, Any], fds: Sequence[int], directories: dict[str, Private]
    ) -> None:
        """Leave all that an init needs in a socket, whose other end systemd is to give to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        memory = os.memfd_create("sdbox-spec", os.MFD_CLOEXEC)
        with open(memory, "wb") as file, ours, theirs:
            marshal.dump((spec, directories), file)
            file.flush()
            wire.send(ours, "box", fds=(memory, root, self.supervisor, self.self_pidfd, *fds))
            self.children[key] = Child(0, -1, directories, fds[HELD:], spec["project"])
            self.tell("handed", key, *_told(directories), fds=(theirs.fileno(),))
        os.close(root)

    def _placed(self, key: bytes, cgroup: int, init: int | None = None) -> None:
        """Take note of the unit's cgroup, and of an init that is not this process's child."""
        child = self.children[key]
        child.cgroup = cgroup
        if init is not None:
            child.pidfd = init
            self._await_end(init, lambda fd: self._reap(key))
        # Now nobody but the payload is in need of a CPU.
        self._make_spare()

    def _await_end(self, pidfd: int, callback: Callable[[int], None]) -> None:
        self.ended[pidfd] = callback
        self.poll.register(pidfd, select.POLLIN)

    def _reap(self, key: bytes) -> None:
        child = self.children[key]
        self.poll.unregister(child.pidfd)
        child.reap()
        os.close(child.pidfd)
        child.pidfd = -1
        if child.orphans:
            self._end_orphans()
        if child.finishing:
            self._clean(key, child)

    def _end_orphans(self) -> None:
        """Kill what an init without a cgroup may have left: it has become this process's."""
        from sdbox.init import family

        inits = {child.pid for child in self.children.values() if child.pidfd >= 0}
        if self.spare is not None:
            inits.add(self.spare.pid)
        proc = family.opened()
        family.kill_children(proc, inits | self.removers, time.monotonic() + _INIT_SECONDS)
        os.close(proc)

    def _finish(self, key: bytes) -> None:
        child = self.children.get(key)
        if child is None:
            # Its launch failed, or was given up before it was answered.
            self.tell("finished", key, "")
            return
        child.finishing = True
        if child.pidfd < 0:
            self._clean(key, child)

    def _clean(self, key: bytes, child: Child) -> None:
        """Remove an ended box's directories, while other boxes are served."""
        child.let_go()
        if child.cgroup >= 0:
            os.close(child.cgroup)
            child.cgroup = -1
        remover = private.start_removing(child.directories.values())
        if remover == 0:
            self._forget(key)
        else:
            self.removers.add(remover)
            self._await_end(os.pidfd_open(remover), lambda fd: self._removed(key, remover, fd))

    def _removed(self, key: bytes, remover: int, pidfd: int) -> None:
        self.poll.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(remover, 0)
        self.removers.discard(remover)
        self._forget(key)

    def _forget(self, key: bytes) -> None:
        child = self.children.pop(key)
        self.tell("finished", key, private.left(child.directories.values()))

    def _end_all(self) -> None:
        """The supervisor is gone: no box may outlive it."""
        deadline = time.monotonic() + _END_SECONDS
        if self.spare is not None:
            self.spare.close()
        self._leave_it_to_init()
        failures: list[Exception] = []
        for work in (_kill, self._clear):
            for child in self.children.values():
                try:
                    work(child, deadline)
                # What is wrong with one box is no reason to leave the others.
                except Exception as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    def _clear(self, child: Child, deadline: float) -> None:
        """Leave nothing of a box that was killed."""
        from sdbox.init import cleanup

        self._see_ended(child, deadline)
        if child.cgroup < 0 or cleanup.empty(child.cgroup, deadline):
            private.remove(child.directories.values())
            child.let_go()

    def _leave_it_to_init(self) -> None:
        """Give the inits a moment to end their boxes, before they are killed with what is in there.

        Who has killed the supervisor may be about to kill this process, as systemd does with all of
        a unit; then they are the only ones who can remove the private directories.
        """
        end = time.monotonic() + _MOMENT_SECONDS
        for child in self.children.values():
            if child.pidfd >= 0:
                select.select([child.pidfd], [], [], max(end - time.monotonic(), 0.0))

    def _see_ended(self, child: Child, deadline: float) -> None:
        """Wait for an init, which ends by itself, at a time that is right for its unit."""
        if child.pidfd < 0:
            return
        remaining = max(deadline - time.monotonic(), 0.0)
        if not select.select([child.pidfd], [], [], min(remaining, _INIT_SECONDS))[0]:
            signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        child.reap()
        child.pidfd = -1
        if child.orphans:
            self._end_orphans()


def _told(directories: dict[str, Private]) -> list[str | int]:
    return [field for one in directories.values() for field in one]


def _kill(child: Child, deadline: float) -> None:
    from sdbox.init import cleanup

    if child.cgroup >= 0:
        cleanup.kill(child.cgroup, deadline)


def _import_the_rest() -> None:
    """Import what the next inits will share with this process, and what it takes to end them."""
    import sdbox.init.cleanup
    import sdbox.init.main
    import sdbox.init.sysfs  # noqa: F401


def main(
    control: int,
    supervisor: int,
    cgroup: str | None = None,
    first: Callable[[Helper], None] | None = None,
    *,
    spares: bool = False,
) -> NoReturn:
    """Be the helper, on an inherited socket and the supervisor's process descriptor.

    `cgroup` is a cgroup to move to, where inits could not be moved to their units otherwise.
    `first` is work to do before anything is asked for. `spares`: whether to fork inits ahead.
    """
    if cgroup is not None:
        with open(f"{cgroup}/cgroup.procs", "wb", buffering=0) as file:
            file.write(b"0")
    set_title("sdbox: helper")
    helper = Helper(socket.socket(fileno=control), supervisor, spares=spares)
    if first is not None:
        first(helper)
    _import_the_rest()
    try:
        nothing = os.open("/dev/null", os.O_RDWR)
    except OSError:
        # In a box there may be none, or none that may be opened.
        nothing = os.open("/", os.O_PATH)
    for fd in (0, 1):
        os.dup2(nothing, fd)
    helper.close_others()
    os.chdir("/")
    # A collection in an init would write to each object, and so copy the memory that it shares with
    # this process.
    gc.freeze()
    helper.run()
