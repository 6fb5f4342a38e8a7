"""The supervisor's side of a nestable box: it asks the manager for those who are inside.

A process in the box's own unit connects to a socket that only the box has (`sdbox.init.nest`).
A message is a number, a verb and its arguments in JSON; the answer has the same number. Whoever
asks is known by the kernel's word alone, a process by a descriptor of it, and what may be asked
for is `sdbox.nesting.bounds`'s to say. So nothing gets out of the slice, which bounds it all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections import deque
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.cgroup import Cgroup
from sdbox.errors import ManagerRefused, ManagerUnavailable, SdboxError
from sdbox.kernel.credentials import peer_credentials
from sdbox.kernel.pidfd import pid_in, pid_of
from sdbox.nesting import bounds, mail
from sdbox.nesting.visitor import FEWER, Visitor, turn_away
from sdbox.plan.slices import slice_path
from sdbox.record import record
from sdbox.systemd.calls import UNIT_EXISTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import ClassVar

    from sdbox.manager import Manager
    from sdbox.plan import Plan
    from sdbox.systemd.endpoint import Endpoint

# Linux 6.5
_SO_PEERPIDFD = 77
# Of the descriptors that this process can have, the shares that those inside of one box may take,
# and of all boxes: connections, and processes that they hand over. And of one box so many at most,
# since each takes memory that no limit of the box counts.
_SHARE_OF_ONE, _SHARE_OF_ALL = 8, 4
_MOST_OF_ONE = 256
# How long nobody is let in where so many are on their way out.
_PAUSE_SECONDS = 1.0
# Requests of one box that wait for something, and those that are being carried out. What a manager
# takes of all is its own to say.
_MOST_REQUESTS = 256
_MOST_AT_WORK = 50


@record
class Inside:
    """A unit that was started through the door: the cgroup that it is in, and whose it is."""

    cgroup: str
    uid: int


class Door:
    """Serves those who are inside of one box. `tree` is the cgroup of all of it."""

    _taken_by_all = 0
    # Whose descriptors threads have closed by now: each door once for each of them.
    _closed: ClassVar[deque[Door]] = deque()

    def __init__(
        self,
        listener: socket.socket,
        *,
        plan: Plan,
        endpoint: Endpoint,
        manager: Manager,
        tree: Cgroup,
        inits: tuple[int, ...],
    ) -> None:
        self.prefix = f"{plan.job}."
        self.slice = plan.whole
        self.endpoint = endpoint
        self.manager = manager
        self.tree = tree
        self.known: dict[str, Inside] = {}
        self._starting: set[str] = set()
        self._inits = inits
        self._programs = plan.programs
        self._own = tree.below(plan.cgroup.removeprefix(plan.tree))
        self.places = loop.Semaphore(_MOST_AT_WORK)
        self._visitors: set[Visitor] = set()
        self._taken = 0
        self._requests = 0
        self._listener = listener
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Serve nobody any more."""
        loop.running().remove_reader(self._listener.fileno())
        # Who has not been let in may have sent something all the same.
        self.dispose(self._listener.detach())
        self._own.close()
        for visitor in tuple(self._visitors):
            visitor.close()

    def hang_up(self, visitor: Visitor, connection: int) -> None:
        """Let a visitor go, whose connection is closed."""
        self._visitors.discard(visitor)
        self.dispose(connection)
        self.give_back()

    def take(self) -> bool:
        """Take a descriptor into account that those inside have of this process, if they may."""
        self._see_closed()
        if self._is_full():
            return False
        self._count(1)
        return True

    def give_back(self) -> None:
        """Undo take()."""
        self._count(-1)

    def dispose(self, fd: int) -> None:
        """Close what may be a stranger's, without a wait. It counts until it is closed."""
        self._count(1)
        mail.close(fd, lambda: Door._closed.append(self))

    def _see_closed(self) -> None:
        # Other threads may have such loops, too.
        with contextlib.suppress(IndexError):
            while True:
                Door._closed.popleft().give_back()

    def _is_full(self) -> bool:
        return self._taken >= _most() or Door._taken_by_all >= _limit() // _SHARE_OF_ALL

    def _count(self, number: int) -> None:
        self._taken += number
        Door._taken_by_all += number

    def slices(self, uid: int) -> frozenset[str]:
        """Return the slices that a user may start units in: the box's, and of his boxes in it."""
        inner = (
            unit
            for unit, inside in self.known.items()
            if unit.endswith(".slice") and uid in (0, inside.uid) and self.is_there(unit)
        )
        return frozenset((self.slice, *inner))

    def is_there(self, unit: str) -> bool:
        """Whether a unit is one that was started through here, and still has its cgroup."""
        inside = self.known.get(unit)
        return inside is not None and os.path.isdir(inside.cgroup)

    def begin(self) -> None:
        """Take a request into account. Raises ManagerUnavailable."""
        if self._requests >= _MOST_REQUESTS:
            raise ManagerUnavailable(
                f"The box around has {_MOST_REQUESTS} requests at once", hint=FEWER
            )
        self._requests += 1

    def end(self) -> None:
        """Undo begin()."""
        self._requests -= 1

    def refuse_frozen_above(self, unit: str) -> None:
        """Raise ManagerRefused where a unit is to be thawed that its slice keeps frozen."""
        from sdbox.systemd.frozen import refuse_frozen_above

        refuse_frozen_above(unit, self.endpoint.cgroup_root, self.known[unit].cgroup)

    def pid_of(self, pidfd: int, uid: int) -> int:
        """Return the PID that a process in the box has for the manager. Raises SdboxError.

        It has to be the user's own.
        """
        pid = pid_of(pidfd)
        if pid not in self.tree.processes() or pid in self._inits:
            raise bounds.refusal(f"process {pid}, which is not in this box")
        if uid not in (0, os.stat(f"/proc/{pid}").st_uid):
            raise bounds.refusal(f"process {pid} of another user")
        return pid_in(self.endpoint.pid_namespace, pidfd)

    async def start(self, request: bounds.Start, uid: int, pidfd: int, *, timeout: float) -> None:
        """Start a scope with a process of a user's. Raises as Manager.start_scope()."""
        own = request.own_slice
        names = [request.unit] if own is None else [request.unit, own.name]
        self._refuse_twins(names)
        pid = self.pid_of(pidfd, uid)
        self._starting.update(names)
        before = {name: self.known[name] for name in names if name in self.known}
        self._note(request, uid)
        try:
            await self.manager.start_scope(
                request.unit,
                request.properties,
                pids=[pid],
                pidfds=[pidfd],
                own_slice=own,
                timeout=timeout,
                look_again=lambda: self.pid_of(pidfd, uid),
            )
            await self._see_programs(request.unit)
        except BaseException:
            for name in names:
                del self.known[name]
            self.known.update(before)
            raise
        finally:
            self._starting.difference_update(names)

    def _refuse_twins(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self._starting or self.is_there(name):
                hint = "Choose another id"
                raise ManagerRefused(f"{name}: it is there", name=UNIT_EXISTS, hint=hint)

    def _note(self, request: bounds.Start, uid: int) -> None:
        """Know of a unit that is about to be started, and of its slice."""
        (within,) = [p.value for p in request.properties if p.name == "Slice"]
        place = self.endpoint.cgroup_root + slice_path(within)
        self.known = {unit: inside for unit, inside in self.known.items() if self._is_of_use(unit)}
        self.known[request.unit] = Inside(cgroup=f"{place}/{request.unit}", uid=uid)
        if request.own_slice is not None:
            self.known[within] = Inside(cgroup=place, uid=uid)

    def _is_of_use(self, unit: str) -> bool:
        return unit in self._starting or self.is_there(unit)

    async def _see_programs(self, unit: str) -> None:
        """Make sure that what the box may not reach, those inside may not either.

        systemd has a slice's addresses kept by programs on each unit's cgroup in it, its devices by
        one on its own.
        """
        if not self._programs:
            return
        from sdbox.kernel import bpf

        try:
            with Cgroup.open(self.known[unit].cgroup) as cgroup:
                bpf.check(cgroup.fd, unit, [p for p in self._programs if p not in bpf.OF_SLICES])
            bpf.check(self.tree.fd, self.slice, [p for p in self._programs if p in bpf.OF_SLICES])
        except SdboxError:
            await self.manager.destroy(unit)
            raise

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            loop.running().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        self._see_closed()
        if self._taken > 2 * _most():
            # Those that are turned away can't be closed: the others may wait for that.
            loop.running().remove_reader(self._listener.fileno())
            loop.running().call_later(_PAUSE_SECONDS, self._listen)
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:
            # It has gone again.
            return
        is_inside = self._is_inside(sock)
        if is_inside and self.take():
            self._visitors.add(Visitor(self, sock, peer_credentials(sock)[1]))
            return
        if is_inside:
            turn_away(sock)
        self.dispose(sock.detach())

    def _is_inside(self, sock: socket.socket) -> bool:
        """Whether a process of the box's own unit has connected: not one of a box inside of it."""
        try:
            pidfd = _peer(sock)
        except OSError:
            return False
        try:
            return pid_of(pidfd) in self._own.processes()
        except (OSError, SdboxError):
            return False
        finally:
            os.close(pidfd)


def _most() -> int:
    """Return how many descriptors those inside of one box may have of this process."""
    return min(_limit() // _SHARE_OF_ONE, _MOST_OF_ONE)


def _limit() -> int:
    """Return how many descriptors this process can have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _peer(sock: socket.socket) -> int:
    """Return a descriptor of the process that has connected."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        # Of a process that has ended there is none to be had, and its PID may be another's.
        if error.errno != errno.ENOPROTOOPT:
            raise
        return os.pidfd_open(peer_credentials(sock)[0])
