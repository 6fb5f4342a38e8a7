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
from sdbox.record import replaced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdbox.result import Usage

# No file tells of the end, or the stop, of a process that is not one's child.
_LOOK_SECONDS = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")
# proc_pid_stat(5): utime, cutime and stime, cstime, from the field after the name on.
_USER, _SYSTEM, _THREADS = (11, 13), (12, 14), 17


class Family(Cgroup):
    """The processes of a job without a cgroup: init, and all that descend from it.

    `fd` is a process descriptor of init. It has no files: figures are those of the processes. With
    `private_pids` init is the first process of a PID namespace, and the kernel ends that with it.
    """

    __slots__ = ("_proc", "init", "private_pids")

    def __init__(self, fd: int, name: str, *, init: int, private_pids: bool) -> None:
        super().__init__(fd, name)
        self.init = init
        self.private_pids = private_pids
        self._proc = family.opened()

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
        return [pid for pid in below if family.stat(self._proc, pid)[:1] not in ([], ["Z"])]

    @property
    def populated(self) -> bool:
        """Whether init is there, with which the last of the others goes."""
        return not self.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether init has ended."""
        return self.fd < 0 or family.stat(self._proc, self.init)[:1] in ([], ["Z"])

    def tasks(self) -> int:
        """How many threads there are."""
        stats = (family.stat(self._proc, pid) for pid in self.processes())
        return sum(int(fields[_THREADS]) for fields in stats if fields)

    def cpu_seconds(self) -> float | None:
        """CPU time of all, and of those that have ended and been waited for."""
        return self._seconds((*_USER, *_SYSTEM))

    def usage(self) -> Usage:
        """What the tree has used: CPU time. Nobody keeps any other account."""
        return replaced(
            super().usage(),
            cpu_user_seconds=self._seconds(_USER),
            cpu_system_seconds=self._seconds(_SYSTEM),
        )

    def _seconds(self, fields: Sequence[int]) -> float | None:
        # With those that have ended and are not waited for yet: else they would count only then.
        pids = [self.init, *family.descendants(self._proc, self.init)]
        stats = [family.stat(self._proc, pid) for pid in pids]
        known = [stat for stat in stats if stat]
        if not known:
            return None
        return sum(int(stat[number]) for stat in known for number in fields) / _TICKS

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
