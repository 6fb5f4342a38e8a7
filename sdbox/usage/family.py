"""The processes of a job that has no cgroup: its init, and all that descend from it.

They are found in /proc, one after the other, and ended and stopped by signals. That is weaker than
a cgroup, of which the kernel knows all members at one moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.cgroup import Cgroup
from sdbox.errors import TimedOut
from sdbox.init import family
from sdbox.kernel.pidfd import has_ended
from sdbox.record import replaced

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdbox.result import Usage

    _Stats = dict[tuple[int, str], list[str]]

# No file tells of the end, or the stop, of a process that is not one's child.
_LOOK_SECONDS = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")
# proc_pid_stat(5), from the field after the name on: utime and cutime, stime and cstime, of which
# the second is that of children that were waited for.
_TIMES = ((11, 13), (12, 14))
_STARTED = 19
# How often to look again when somebody has gone meanwhile: with many that come and go, somebody
# always has.
_LOOKS = 4


class Family(Cgroup):
    """The processes of a job without a cgroup: init, and all that descend from it.

    `fd` is a process descriptor of init. It has no files: figures are those of the processes. With
    `private_pids` init is the first process of a PID namespace, and the kernel ends that with it.
    """

    __slots__ = ("_known", "_lost", "_proc", "init", "private_pids")
    # What those had used whom it has not looked at since.
    forgets = True

    def __init__(self, fd: int, name: str, *, init: int, private_pids: bool) -> None:
        super().__init__(fd, name)
        self.init = init
        self.private_pids = private_pids
        self._proc = family.opened()
        # What proc_pid_stat(5) said of whom, by PID and start; and what nobody's says any more.
        self._known: _Stats = {}
        self._lost = [0, 0]

    def close(self) -> None:
        """Let go of it."""
        super().close()
        proc, self._proc = self._proc, -1
        if proc >= 0:
            os.close(proc)

    def read(self, file: str) -> str | None:
        """Return None: there are no files."""
        return None

    def write(self, file: str, text: str) -> None:
        """Do nothing, as with a cgroup that is gone."""

    def processes(self) -> list[int]:
        """PIDs of init and of all below."""
        return [] if self.is_gone else [self.init, *self.members()]

    def members(self) -> list[int]:
        """PIDs of all but init that have not ended."""
        below = family.descendants(self._proc, self.init)
        return [pid for pid in below if not family.is_dead(family.stat(self._proc, pid))]

    @property
    def populated(self) -> bool:
        """Whether init is there, with which the last of the others goes."""
        return not self.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether init has ended."""
        # Not by /proc, where its PID may be another's by now.
        return self.fd < 0 or has_ended(self.fd)

    def tasks(self) -> int:
        """How many threads there are."""
        stats = (family.stat(self._proc, pid) for pid in self.processes())
        return sum(int(fields[family.THREADS]) for fields in stats if fields)

    def cpu_seconds(self) -> float | None:
        """CPU time of all, and of those that have ended."""
        user, system = self._seconds()
        return None if user is None or system is None else user + system

    def usage(self) -> Usage:
        """What the tree has used: CPU time. Nobody keeps any other account."""
        user, system = self._seconds()
        return replaced(super().usage(), cpu_user_seconds=user, cpu_system_seconds=system)

    def _seconds(self) -> tuple[float | None, float | None]:
        """User and system time, as long as init is there."""
        found, leaving = self._settled()
        if all(pid != self.init for pid, _ in found):
            return None, None
        known = found | leaving
        self._count_lost(known)
        self._known = known
        times = (_sum(found.values(), kind) for kind in _TIMES)
        user, system = (sum(parts) / _TICKS for parts in zip(times, self._lost, strict=True))
        return user, system

    def _settled(self) -> tuple[_Stats, _Stats]:
        """Return who is there, as of a moment when nobody went: who does hands on his time.

        And, if there was no such moment, who went in the last: nobody knows yet who has his time.
        """
        before = self._known
        found, missed = self._look()
        for _ in range(_LOOKS):
            if not missed and before.keys() <= found.keys():
                break
            before = found
            found, missed = self._look()
        return found, {key: stat for key, stat in before.items() if key not in found}

    def _look(self) -> tuple[_Stats, bool]:
        """Return who is there, and whether somebody went before he was looked at.

        With those that have ended and are not waited for yet: else they would count later. Parents
        come before their children, so that what these hand on is not counted twice.
        """
        listed = dict.fromkeys((self.init, *family.descendants(self._proc, self.init)))
        # While others end, the kernel may leave out some that do not.
        left_out = (pid for pid, _ in self._known if pid not in listed)
        stats = [(pid, family.stat(self._proc, pid)) for pid in (*listed, *left_out)]
        found = {(pid, stat[_STARTED]): stat for pid, stat in stats if stat}
        missed = any(pid in listed and not stat for pid, stat in stats)
        return {key: found[key] for key in found if key[0] in listed or key in self._known}, missed

    def _count_lost(self, known: _Stats) -> None:
        """Keep what those had who are gone, if nobody else has it now.

        The kernel drops it where nobody waits for them, their parent ignoring SIGCHLD.
        """
        gone = [stat for key, stat in self._known.items() if key not in known]
        left = [key for key in self._known if key in known]
        for number, kind in enumerate(_TIMES):
            now, then = (_sum((of[key] for key in left), kind[1:]) for of in (known, self._known))
            self._lost[number] += max(0, _sum(gone, kind) - (now - then))

    def send(self, number: int) -> None:
        """Send a signal to all but init."""
        family.signal_all(self._proc, self.init, number)

    def stop_all(self) -> bool:
        """Have all but init stop; return whether they have."""
        return family.stop_all(self._proc, self.init)

    def kill(self) -> None:
        """SIGKILL what there is; init sees to what is born meanwhile, or dies with all there is."""
        if self.private_pids:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        else:
            self.stop_all()
            self.send(signal.SIGKILL)

    async def end(self, timeout: float) -> None:
        """Kill what there is, and wait until none but init is left."""
        self.kill()
        await self.wait_empty_async(timeout)

    async def wait_empty_async(self, timeout: float) -> None:
        """Wait until none but init is left, or it has ended, too. Raises TimedOut."""
        end = time.monotonic() + timeout
        while not self.is_gone and self.members():
            if time.monotonic() > end:
                raise TimedOut(f"{self.name}: processes are left after {timeout:g} s")
            await loop.sleep(_LOOK_SECONDS)


def _sum(stats: Iterable[Sequence[str]], numbers: Iterable[int]) -> int:
    return sum(int(stat[number]) for stat in stats for number in numbers)
