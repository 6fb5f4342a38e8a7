"""A cgroup v2 directory: its files, its processes, and waiting for it to be empty.

Everything goes through a directory file descriptor, so that a path that is made again for another
job is never taken for this one. `sdbox run` imports it on its way to every launch: standard library
only, no asyncio, no loop of sdbox's.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from errno import ENODEV, ENOENT, EOPNOTSUPP

from sdbox.errors import SdboxError, TimedOut
from sdbox.init.cleanup import RECHECK_SECONDS, kill_each

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from sdbox.result import Usage

# What the kernel says of a cgroup that was removed: on opening one of its files, and on reading
# one that is open. An optional file, or that of a controller that is not there, is ENOENT too.
_ABSENT = (ENOENT, ENODEV)


class CgroupError(SdboxError):
    """A cgroup that can't be opened, read or written."""


class Cgroup:
    """An open cgroup directory; close() it, or use it in `with`.

    A cgroup that is gone is no error: it has no processes, it is empty, its figures are None.
    """

    __slots__ = ("fd", "name")
    # Whether time of those who have ended may be missing in what is told of CPU time.
    forgets = False

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the directory at `path`. Raises CgroupError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise CgroupError(f"cgroup {path}: {error.strerror}") from error
        return cls(fd, path)

    def below(self, name: str) -> Cgroup:
        """Open the cgroup called `/name` in this one, or this one again. Raises CgroupError."""
        place = f".{name}"
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise CgroupError(f"cgroup {self.name}{name}: {error.strerror}") from error
        return Cgroup(fd, self.name + name)

    def close(self) -> None:
        """Close the directory; once more does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def read(self, file: str) -> str | None:
        """Contents of a file without the last newline, None where there is no such file."""
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            self._absent(file, error)
            return None
        try:
            return _contents(fd).removesuffix("\n")
        except OSError as error:
            self._absent(file, error)
            return None
        finally:
            os.close(fd)

    def value(self, file: str) -> int | None:
        """The number in a file, None where there is no such file or it says `max`."""
        text = self.read(file)
        return int(text) if text is not None and text != "max" else None

    def flat(self, file: str) -> dict[str, int] | None:
        """A flat-keyed file such as cpu.stat or memory.events, None where it is not there."""
        text = self.read(file)
        return None if text is None else _flat(text)

    def nested(self, file: str) -> dict[str, dict[str, int]] | None:
        """A nested-keyed file such as io.stat, by its first key; None where it is not there."""
        text = self.read(file)
        if text is None:
            return None
        lines = (line.split() for line in text.splitlines())
        return {key: _pairs(pairs) for key, *pairs in lines}

    def processes(self) -> list[int]:
        """PIDs in this cgroup and all below, as this process's PID namespace has them."""
        return [pid for group in self._tree() for pid in self._members(group)]

    @property
    def populated(self) -> bool:
        """Whether there is a process, dead but not reaped ones aside, here or below."""
        return bool((self.flat("cgroup.events") or {}).get("populated"))

    @property
    def is_gone(self) -> bool:
        """Whether it has been removed."""
        return self.read("cgroup.events") is None

    def wait_empty(self, timeout: float) -> None:
        """Block until no process is left here or below. Raises TimedOut."""
        with _Events(self) as events:
            end = time.monotonic() + timeout
            while not events.tell_of_end():
                events.wait(self._pause(end, timeout))

    async def wait_empty_async(self, timeout: float) -> None:
        """As wait_empty(), in a running event loop."""
        with _Events(self) as events:
            end = time.monotonic() + timeout
            while not events.tell_of_end():
                await _readable(events.fileno(), self._pause(end, timeout))

    def kill(self) -> None:
        """SIGKILL the tree at once, with no race against what forks (Linux 5.14).

        And one process after the other: where only root may do that; and for one whose first thread
        has ended, which it leaves out (tried: 6.18). What forks meanwhile may be left.
        """
        if os.access("cgroup.kill", os.W_OK, dir_fd=self.fd):
            self.write("cgroup.kill", "1")
        kill_each(self.processes())

    async def end(self, timeout: float) -> None:
        """Kill what there is until no process is left here or below. Raises TimedOut."""
        with _Events(self) as events:
            end = time.monotonic() + timeout
            while not events.tell_of_end():
                self.kill()
                await _readable(events.fileno(), self._pause(end, timeout))

    def write(self, file: str, text: str) -> None:
        """Write a file; nothing happens where the cgroup is gone. Raises CgroupError."""
        try:
            fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            self._absent(file, error)
            return
        try:
            os.write(fd, text.encode())
        except OSError as error:
            self._absent(file, error)
        finally:
            os.close(fd)

    def usage(self) -> Usage:
        """What the tree has used; None for what no controller counts here, or when it is gone.

        memory.peak is there since Linux 5.19, pids.peak since 6.1. memory.peak has page cache
        in it, as the limit has.
        """
        from sdbox.result import Usage  # here, for what it imports

        cpu = self.flat("cpu.stat") or {}
        devices = self.nested("io.stat")
        return Usage(
            cpu_user_seconds=_seconds(cpu.get("user_usec")),
            cpu_system_seconds=_seconds(cpu.get("system_usec")),
            cpu_throttled_seconds=_seconds(cpu.get("throttled_usec")),
            memory_cgroup_peak_bytes=self.value("memory.peak"),
            oom_kills=self._oom_kills(),
            tasks_peak=self.value("pids.peak"),
            io_read_bytes=_total(devices, "rbytes"),
            io_write_bytes=_total(devices, "wbytes"),
            io_read_operations=_total(devices, "rios"),
            io_write_operations=_total(devices, "wios"),
            cpu_pressure_seconds=self._pressure("cpu"),
            memory_pressure_seconds=self._pressure("memory"),
            io_pressure_seconds=self._pressure("io"),
        )

    def hit_own_memory_limit(self) -> bool | None:
        """Whether anything was killed for this cgroup's own limit; None where that can't be told.

        Not so if it was for the limit of one above, or of one below.
        """
        events = self.flat("memory.events.local")
        return None if events is None else bool(events.get("oom"))

    def _oom_kills(self) -> int | None:
        # The local file: cgroups that the job made below may have limits of their own.
        kills = (self.flat("memory.events.local") or {}).get("oom_kill")
        if kills is None or not self.name.endswith(".slice"):
            return kills
        # Nobody lives in a slice itself: its limit takes from those below.
        kills = (self.flat("memory.events") or {}).get("oom_kill")
        return kills if self.hit_own_memory_limit() else 0

    def cpu_seconds(self) -> float | None:
        """CPU time of the tree so far."""
        return _seconds((self.flat("cpu.stat") or {}).get("usage_usec"))

    def tasks(self) -> int:
        """How many tasks there are in the tree: threads, as pids.max counts them."""
        return sum(
            len((self.read(f"{group}/cgroup.threads") or "").split()) for group in self._tree()
        )

    def _pressure(self, resource: str) -> float | None:
        """Seconds in which some task waited for a resource (PSI), None where nobody counts."""
        for line in (self.read(f"{resource}.pressure") or "").splitlines():
            if line.startswith("some "):
                return _seconds(int(line.rpartition("total=")[2]))
        return None

    def _pause(self, end: float, timeout: float) -> float:
        left = end - time.monotonic()
        if left <= 0:
            raise TimedOut(f"cgroup {self.name}: it still has processes after {timeout:g} s")
        return min(left, RECHECK_SECONDS)

    def _tree(self) -> Iterator[str]:
        """This directory and all below, as paths relative to it."""
        groups = ["."]
        while groups:
            group = groups.pop()
            yield group
            groups += [f"{group}/{child}" for child in self._children(group)]

    def _children(self, group: str) -> list[str]:
        try:
            # Afresh, because a descriptor has only one position to read a directory from.
            fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            self._absent(group, error)
            return []
        try:
            with os.scandir(fd) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        finally:
            os.close(fd)

    def _members(self, group: str) -> list[int]:
        # 0 stands for a process that this PID namespace doesn't have.
        return [pid for pid in map(int, (self.read(f"{group}/cgroup.procs") or "").split()) if pid]

    def _absent(self, file: str, error: OSError) -> None:
        """Raise CgroupError, unless it says that the cgroup or the file is not there."""
        # A threaded cgroup refuses to list processes; the one that it belongs to lists them.
        if error.errno == EOPNOTSUPP and file.endswith("cgroup.procs"):
            return
        if error.errno not in _ABSENT:
            raise CgroupError(f"cgroup {self.name}: {file}: {error.strerror}") from error


class _Events:
    """An open cgroup.events and what tells of its changes.

    It is the epoll descriptor that is waited for: it becomes readable when the file has
    something of priority (POLLPRI), which asyncio's event loops don't look for.
    """

    __slots__ = ("_epoll", "_fd")

    def __init__(self, cgroup: Cgroup) -> None:
        self._epoll = select.epoll()
        try:
            self._fd = os.open("cgroup.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=cgroup.fd)
        except OSError as error:
            self._fd = -1
            if error.errno not in _ABSENT:
                self._epoll.close()
                raise CgroupError(f"cgroup {cgroup.name}: {error.strerror}") from error
        else:
            self._epoll.register(self._fd, select.EPOLLPRI)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._epoll.close()
        if self._fd >= 0:
            os.close(self._fd)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def wait(self, seconds: float) -> None:
        self._epoll.poll(seconds)

    def tell_of_end(self) -> bool:
        """Whether the cgroup has no processes any more, or is gone itself."""
        if self._fd < 0:
            return True
        try:
            return not _flat(os.pread(self._fd, 4096, 0).decode())["populated"]
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return True


async def _readable(fd: int, seconds: float) -> None:
    """Wait until `fd` can be read, or for so long."""
    from sdbox import loop  # here, since who waits for nothing must not pay for it

    with contextlib.suppress(TimedOut):
        async with loop.within(seconds, "waiting"):
            await loop.readable(fd)


def controllers(path: str) -> frozenset[str]:
    """Controllers that the cgroup at `path` has; none where it is no cgroup v2 directory."""
    with Cgroup.open(path) as cgroup:
        return frozenset((cgroup.read("cgroup.controllers") or "").split())


def path_of(pid: int | str) -> str | None:
    """The cgroup v2 path of a process, from this cgroup namespace's root; None when it is gone.

    `pid` may be "self". See cgroups(7): /proc/PID/cgroup, the hierarchy with ID 0.
    """
    try:
        fd = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        lines = _contents(fd).splitlines()
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    found = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    return found[0].removesuffix(" (deleted)") if found else None


def _contents(fd: int) -> str:
    chunks = iter(lambda: os.read(fd, 65536), b"")
    return os.fsdecode(b"".join(chunks))


def _flat(text: str) -> dict[str, int]:
    pairs = (line.split() for line in text.splitlines())
    return {key: int(value) for key, value in pairs}


def _pairs(words: list[str]) -> dict[str, int]:
    pairs = (word.partition("=") for word in words)
    return {key: int(value) for key, _, value in pairs if value.isdigit()}


def _seconds(usec: int | None) -> float | None:
    return None if usec is None else usec / 1e6


def _total(devices: dict[str, dict[str, int]] | None, key: str) -> int | None:
    if devices is None:
        return None
    return sum(figures.get(key, 0) for figures in devices.values())
