"""Init, the first process of a box: waits for its unit, sets the box up, starts and reaps.

It tells the supervisor by messages what becomes of the payload:

    error STEP PATH ERRNO     the payload was not started
    listening                 with a socket through which those inside will ask for boxes
    disk                      with descriptors of what the payload will have on disk, if watched
    started PID               with a process file descriptor of the payload
    stopped NUMBER, continued it was, as by ^Z and fg
    exited STATUS             the status of wait(2)

continues the payload on `continue NUMBER`, if that is its last stop and it has not gone on since,
and goes when the supervisor, which sees to the rest of the tree, says `dismissed`. Where
supervisor or helper vanish before that, init ends the box itself.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from sdbox.init import cleanup, mounts, payload, private, syscalls, wire
from sdbox.init.reaping import Reaper, tell
from sdbox.init.steps import StepError, step
from sdbox.init.title import set_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sdbox.init.private import Private

# How long init tries to kill what a vanished supervisor left, before it gives up on the
# private directories and has the kernel end everything, itself included.
_KILL_SECONDS = 5.0
# How long a call of a vanished supervisor may take to have its effect.
_PLACING_SECONDS = 1.0


class Init:
    """One box's first process. `guardians` are supervisor and helper, as descriptors.

    `placed` says that it was born in its unit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        report: socket.socket,
        guardians: tuple[int, ...],
        directories: dict[str, Private],
        *,
        placed: bool = False,
    ) -> None:
        self.spec = spec
        self.report = report
        self.guardians = guardians
        self.directories = directories
        self.cgroup = -1
        self.exit_status = 0
        self.is_released = False
        # Descriptors of all that it has on disk, for who counts that.
        self.disk: list[int] = []
        # The way back to where the private directories are, which the box covers.
        self.outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.place = os.open("/proc/self/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        self.birthplace = b"" if placed else os.pread(self.place, 4096, 0)
        self.proc = -1
        if spec["family"] and os.getpid() != 1:
            from sdbox.init import family

            self.proc = family.opened()
        # For who can't go back to there.
        self.kept = private.kept(directories.values()) if spec["user_namespace"] else []

    def run(self) -> NoReturn:
        """Live from fork to the end of the box."""
        try:
            self._live()
        except BaseException:
            # A fault here must not set the payload free.
            self._end_box()
            raise
        # For who looks at the service that this is the main process of.
        os._exit(self.exit_status)

    def _live(self) -> None:
        try:
            self._prepare()
            self._wait_for_release()
            child = self._start()
        except StepError as error:
            tell(self.report, "error", error.name, error.path, error.number)
            # Not before the supervisor knows: it may be putting this process into its unit.
            self._wait_for_release()
            os._exit(1)
        self._let_go_of_streams()
        self._reap(child)

    def _prepare(self) -> None:
        """Do all that needs no fork: this runs while the supervisor asks for the unit."""
        set_title(f"sdbox: init of {self.spec['job']}")
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        if self.spec["spare_init"]:
            with step("OOMScoreAdjust"), open("/proc/self/oom_score_adj", "wb") as file:
                file.write(b"-1000")
        payload.prepare(self.spec)
        namespaces = self.spec["namespaces"]
        if self.spec["user_namespace"]:
            self._enter_user_namespace(*self.spec["user_namespace"])
        if namespaces:
            with step("namespaces"):
                syscalls.unshare(namespaces)
        if namespaces & syscalls.CLONE_NEWNET:
            with step("PrivateNetwork"):
                _loopback_up()
        if namespaces & syscalls.CLONE_NEWNS:
            scratch, directories = self._open_scratch(), self._open_private()
            self.disk = [*directories.values(), *([scratch] if scratch >= 0 else [])]
            mounts.mount_all(
                self.spec["root_directory"],
                self.spec["mounts"],
                directories,
                scratch=scratch,
                others=self._door() if self.spec["nestable"] else (),
                secure_root=self.spec["secure_root"],
                verified_root=self.spec.get("verified_root"),
                ephemeral=self.spec["ephemeral"],
                protections=self.spec["protections"],
            )

    def _open_private(self) -> dict[str, int]:
        """Open the private directories, by destination."""
        opened = {}
        for destination, one in self.directories.items():
            with step("RootEphemeral" if destination == "/" else "PrivateTmp", one[0]):
                opened[destination] = private.opened(one)
        return opened

    def _open_scratch(self) -> int:
        """Open the scratch directory, and make it with what is in it the box's project's."""
        given = [one for kind, _, one in self.spec["mounts"] if kind == "ScratchDirectory"]
        if not given:
            return -1
        from sdbox.init import scratch

        (arguments,) = given
        fd = scratch.opened(**arguments)
        if self.spec["project"]:
            # Not later: it may come to be below what is read-only.
            self._give_scratch(fd, **arguments)
        return fd

    def _give_scratch(self, scratch: int, *, directory: str, uid: int) -> None:
        from sdbox.init import quota

        owners = {os.fstat(scratch).st_uid, max(uid, 0)}
        quota.give_tree(scratch, directory, owners, self.spec["project"])

    def _door(self) -> tuple[tuple[str, int], ...]:
        """Make the way to the supervisor from inside a nestable box, which is at its other end."""
        from sdbox.init import nest

        listener, mount = nest.listen()
        tell(self.report, "listening", fds=(listener.fileno(),))
        listener.close()
        return ((self.spec["door"], mount),)

    def _enter_user_namespace(self, uid: int, gid: int) -> None:
        from sdbox.init import userns

        if not self.spec["private_pids"]:
            # Else this process was born in it.
            userns.enter()
        userns.map_self(uid, gid)

    def _wait_for_release(self) -> None:
        """Block until the supervisor says that this process is in its unit."""
        self._poll(self.report.fileno())
        fields, fds = wire.receive(self.report)
        if fields == [b"dismissed"]:
            os._exit(1)
        if not fds:
            # The supervisor has closed everything: it is about to end.
            self._end_box()
        self.is_released = True
        if not self.spec["family"]:
            self.cgroup = fds[0]

    def _start(self) -> int:
        """Fork the payload and see it through exec."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        go = os.eventfd(0, os.EFD_CLOEXEC)
        child = os.fork()
        if child == 0:
            _become_payload(self.spec, writer, go)
        os.close(writer)
        # The payload is in the caller's process group. Who kills all of that must leave one
        # process that ends what the payload has put elsewhere.
        # A service's init leads a session, and can't leave its group: there, the payload does.
        os.setpgid(child if os.getsid(0) == os.getpid() else 0, 0)
        if self.spec["terminal"]:
            os.tcsetpgrp(0, child)
        os.eventfd_write(go, 1)
        os.close(go)
        descriptor = os.pidfd_open(child)
        # Everything init has blocked is a signal that it must outlive; exec itself can't hang
        # but on a dead file system, and then the supervisor's own time-out and kill hold.
        message = os.read(reader, 16384)
        os.close(reader)
        if message:
            os.waitpid(child, 0)
            name, path, number = message.split(b"\0")
            raise StepError(name.decode(), os.fsdecode(path), int(number))
        if self.disk and self.spec["counted"]:
            # By their paths, other directories might be found there by now.
            tell(self.report, "disk", fds=tuple(self.disk))
        wire.close(self.disk)
        tell(self.report, "started", child, fds=(descriptor,))
        os.close(descriptor)
        return child

    def _let_go_of_streams(self) -> None:
        """Hold none of the payload's streams: whoever reads them waits for the last holder.

        Something that nothing can be read from or written to takes their place, which needs no
        /dev/null: the box may have none, or none that may be opened.
        """
        for fd in (0, 1, 2):
            os.dup2(self.outside, fd)

    def _reap(self, child: int) -> None:
        signals = syscalls.signalfd({signal.SIGCHLD})
        reaper = Reaper(child, self.report)
        while True:
            reaper.reap()
            ready = self._poll(signals, self.report.fileno())
            if signals in ready:
                os.read(signals, 4096)
            if self.report.fileno() in ready and self._is_dismissed(reaper):
                break
        if self.spec["family"]:
            self._kill_others()
        if reaper.status is not None:
            code = os.waitstatus_to_exitcode(reaper.status)
            self.exit_status = code if code >= 0 else 128 - code

    def _is_dismissed(self, reaper: Reaper) -> bool:
        """Hear the supervisor. Return whether it has nothing more to say."""
        fields, fds = wire.receive(self.report)
        wire.close(fds)
        if fields[:1] == [b"continue"]:
            reaper.resume(int(fields[1]))
            return False
        if fields != [b"dismissed"]:
            # The supervisor did not come to the job's end.
            self._end_box()
        return True

    def _poll(self, *fds: int) -> set[int]:
        """Wait for one of the descriptors, and end the box where a guardian is gone."""
        poll = select.poll()
        for fd in (*fds, *self.guardians):
            poll.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if ready.intersection(self.guardians):
            self._end_box()
        return ready

    def _end_box(self) -> NoReturn:
        """Kill the payload's tree and remove its directories: nobody else is left to do it."""
        if self.is_released:
            self._kill_others()
        elif not self.spec["family"]:
            self._wait_until_placed()
        if self.spec["user_namespace"]:
            private.remove_kept(self.kept)
        else:
            syscalls.setns(self.outside, syscalls.CLONE_NEWNS)
            private.remove(self.directories.values())
        os._exit(1)

    def _kill_others(self) -> None:
        """Leave nothing of the payload's tree."""
        deadline = time.monotonic() + _KILL_SECONDS
        if self.cgroup >= 0:
            if not cleanup.kill_others(self.cgroup, deadline):
                cleanup.kill(self.cgroup, deadline)
        elif self.proc >= 0:
            from sdbox.init import family

            family.kill_children(self.proc, (), deadline)
        elif os.getpid() == 1:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _wait_until_placed(self) -> None:
        """Give the manager the time to carry out what the supervisor had asked it for.

        A process that is dead by the time that it is put into its scope leaves systemd 252 with a
        scope that is empty from its start, and so never ends.
        """
        deadline = time.monotonic() + _PLACING_SECONDS
        while os.pread(self.place, 4096, 0) == self.birthplace and time.monotonic() < deadline:
            select.select([], [], [], 0.01)


def _become_payload(spec: dict[str, Any], writer: int, go: int) -> NoReturn:
    try:
        payload.become(spec, go)
    except StepError as error:
        failure = error
    except BaseException as error:
        failure = StepError("payload", repr(error), 0)
    os.write(
        writer, f"{failure.name}\0".encode() + os.fsencode(failure.path) + b"\0%d" % failure.number
    )
    os._exit(1)


def _loopback_up() -> None:
    import fcntl
    import struct

    get_flags, set_flags, up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = fcntl.ioctl(sock, get_flags, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack("16sh22x", request)[1]
        fcntl.ioctl(sock, set_flags, struct.pack("16sh22x", b"lo", flags | up))
