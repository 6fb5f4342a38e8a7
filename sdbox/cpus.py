"""CPUs that a job has for itself: no other job is given them, whoever launches it on this host.

A CPU is held by a lock on its record in one file (fcntl(2), open file description locks), on a
descriptor that the processes have that end the job: its helper and its init, not its payload. So
it is free again when they are gone, however they went, and the kernel itself sees to that. What
the record says, the job and its cgroup, informs people. One thing more is told by it: should
helper and init have been killed, and the payload live on, its CPUs are not free. So that no later
job is taken for that one, a cgroup is told by its inode number as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from typing import TYPE_CHECKING

from sdbox import loop, topology
from sdbox.cgroup import Cgroup, CgroupError
from sdbox.errors import CPUsTaken, TimedOut, Unenforceable
from sdbox.inotify import IN_CLOSE_WRITE, Inotify
from sdbox.names import format_cpu_request, format_cpus
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sdbox.plan import Plan
    from sdbox.topology import Cpu, CPUs
    from sdbox.values import CPURequest

DIRECTORY = "/run/sdbox/cpus"
_FILE = "holders"

# Of a job's id and the path of its cgroup, NUL bytes after that.
_RECORD_BYTES = 4096
# struct flock, of which type, whence, start and length are of use.
_LOCK = struct.Struct("hhqqi0q")
# Whoever chooses CPUs holds the byte there, beyond all records.
_CHOOSING = 1 << 40
_CHOOSING_SECONDS = 10.0
_CHOOSING_PAUSE_SECONDS = 0.002
# The kernel tells of a close before it lets go of the locks (__fput in its fs/file_table.c). What
# it tells nothing of is the end of a payload that nobody sees to.
_LOOK_AGAIN_SECONDS = (0.01, 0.1)
_LOOK_ANYWAY_SECONDS = 5.0


@record
class Claim:
    """CPUs that are held for as long as anybody has `fd` open."""

    cpus: tuple[int, ...]
    fd: int

    def sign(self, plan: Plan, cgroup_root: str) -> None:
        """Write down whose they are."""
        text = os.fsencode(f"{plan.job}\n{cgroup_root}{plan.tree}")
        for cpu in self.cpus:
            _write(self.fd, cpu, text)

    def close(self) -> None:
        """Let go of them here."""
        os.close(self.fd)


@record
class Holder:
    """Who holds a CPU. All is empty where it has not been written down yet.

    `inode` is the cgroup's, empty where the job is not in it yet.
    """

    job: str
    cgroup: str
    inode: str


def settle(plan: Plan, cgroup: Cgroup, *, directory: str = DIRECTORY) -> None:
    """Write down of a job's CPUs which cgroup it has come to."""
    text = os.fsencode(f"{plan.job}\n{cgroup.name}\n{os.fstat(cgroup.fd).st_ino}")
    fd = _open(directory, os.O_RDWR)
    try:
        for cpu in plan.cpus or ():
            _write(fd, cpu, text)
    finally:
        os.close(fd)


def usable(cgroup: str, *limits: Iterable[int] | None) -> CPUs:
    """Return the CPUs that a job may have which this process starts below a cgroup.

    `limits` are what else bounds them, None for no bound.
    """
    cpus = frozenset(os.sched_getaffinity(0))
    for limit in (*limits, _effective(cgroup)):
        if limit is not None:
            cpus &= frozenset(limit)
    return cpus


def _effective(cgroup: str) -> CPUs | None:
    """Return the cpuset of a cgroup, or of the closest above that is there and has one."""
    while cgroup.strip("/"):
        with (
            contextlib.suppress(OSError),
            open(f"{cgroup}/cpuset.cpus.effective", encoding="ascii") as file,
        ):
            return topology.parse(file.read().strip())
        cgroup = os.path.dirname(cgroup)
    return None


async def claim(
    request: CPURequest,
    allowed: CPUs,
    *,
    seconds: float = 0.0,
    directory: str = DIRECTORY,
    sysfs: str = topology.SYSFS,
) -> Claim:
    """Take the CPUs that are asked for, of those allowed; wait so long for them to be free.

    Raises Unenforceable where they can never be had, and CPUsTaken.
    """
    known = topology.read(sysfs)
    allowed &= known.keys()
    _check(request, allowed)
    fd = _open(directory, os.O_RDWR | os.O_CREAT)
    try:
        cpus = await _taken(fd, request, allowed, known, seconds, directory)
    except BaseException:
        os.close(fd)
        raise
    return Claim(cpus=cpus, fd=fd)


def _check(request: CPURequest, allowed: CPUs) -> None:
    usable = f"a job may have {_named(allowed)} here" if allowed else "a job may have none here"
    if request.count > len(allowed):
        raise Unenforceable(
            f"AssignedCPUs: {request.count} are asked for, and {usable}",
            hint=f"Ask for at most {len(allowed)}, or see `sdbox cpus`",
        )
    if others := sorted(set(request.cpus) - allowed):
        raise Unenforceable(
            f"AssignedCPUs: {_named(others)} can't be had: {usable}", hint="See `sdbox cpus`"
        )


def _named(cpus: Iterable[int]) -> str:
    numbers = sorted(cpus)
    return f"CPU{'s' if len(numbers) > 1 else ''} {','.join(format_cpus(numbers))}"


async def _taken(
    fd: int,
    request: CPURequest,
    allowed: CPUs,
    known: Mapping[int, Cpu],
    seconds: float,
    directory: str,
) -> tuple[int, ...]:
    end = time.monotonic() + seconds
    with Inotify() as changes:
        changes.add(f"{directory}/{_FILE}", IN_CLOSE_WRITE)
        pauses: tuple[float, ...] = ()
        while True:
            cpus = await _try(fd, request, allowed, known)
            if cpus is not None:
                return cpus
            left = end - time.monotonic()
            if left <= 0:
                raise _busy(fd, request, allowed, seconds)
            first, *rest = pauses or (_LOOK_ANYWAY_SECONDS,)
            told = await _told(changes, min(first, left))
            pauses = _LOOK_AGAIN_SECONDS if told else tuple(rest)


async def _told(changes: Inotify, seconds: float) -> bool:
    """Wait for somebody to let go of CPUs; return whether that was before so many seconds."""
    with contextlib.suppress(TimedOut):
        async with loop.within(seconds, "CPUs"):
            await loop.readable(changes.fd)
        changes.drain()
        return True
    return False


async def _try(
    fd: int, request: CPURequest, allowed: CPUs, known: Mapping[int, Cpu]
) -> tuple[int, ...] | None:
    """Take the CPUs if they are free, while nobody else takes any."""
    await _begin_choosing(fd)
    try:
        free = frozenset(cpu for cpu in allowed if holder(fd, cpu) is None)
        cpus = _chosen(request, free, known)
        for cpu in cpus or ():
            _lock(fd, cpu * _RECORD_BYTES, fcntl.F_WRLCK)
            _write(fd, cpu, b"")
        return cpus
    finally:
        _lock(fd, _CHOOSING, fcntl.F_UNLCK)


def _chosen(request: CPURequest, free: CPUs, known: Mapping[int, Cpu]) -> tuple[int, ...] | None:
    if request.cpus:
        return request.cpus if free.issuperset(request.cpus) else None
    return topology.choose(request.count, free, known)


async def _begin_choosing(fd: int) -> None:
    """Have the right to take CPUs, which everybody has for less than a millisecond."""
    end = time.monotonic() + _CHOOSING_SECONDS
    while True:
        try:
            _lock(fd, _CHOOSING, fcntl.F_WRLCK)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimedOut(
                    f"AssignedCPUs: another sdbox has kept its lock on {DIRECTORY} for"
                    f" {_CHOOSING_SECONDS:g} s",
                    hint="See whether one is stopped: `ps -C sdbox`",
                ) from None
            await loop.sleep(_CHOOSING_PAUSE_SECONDS)
        else:
            return


def _busy(fd: int, request: CPURequest, allowed: CPUs, seconds: float) -> CPUsTaken:
    wanted = request.cpus or sorted(allowed)
    held = {cpu: found.job for cpu in wanted if (found := holder(fd, cpu)) is not None}
    jobs = sorted(set(held.values()))
    who = ", ".join(
        f"{job or 'a job that starts'} has {_named(c for c in held if held[c] == job)}"
        for job in jobs
    )
    asked = _named(request.cpus) if request.cpus else f"{request.count} of {_named(allowed)}"
    waited = f" after {seconds:g} s" if seconds else ""
    return CPUsTaken(
        f"AssignedCPUs={format_cpu_request(request)}: {asked} can't be had{waited}: {who}",
        hint="Ask for others, or wait longer" if seconds else "Wait for them with --wait-cpus",
    )


def holders(cpus: Iterable[int], *, directory: str = DIRECTORY) -> dict[int, Holder]:
    """Return who holds which of these CPUs."""
    try:
        fd = _open(directory, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    try:
        found = {cpu: holder(fd, cpu) for cpu in cpus}
    finally:
        os.close(fd)
    return {cpu: one for cpu, one in found.items() if one is not None}


def holder(fd: int, cpu: int) -> Holder | None:
    """Return who holds a CPU, but for who has `fd`."""
    job, cgroup, inode, *_ = (*_read(fd, cpu).split("\n"), "", "", "")
    found = Holder(job=job, cgroup=cgroup, inode=inode)
    return found if _is_locked(fd, cpu * _RECORD_BYTES) or _is_populated(found) else None


def _is_populated(holder: Holder) -> bool:
    """Whether something runs in just that cgroup."""
    if not holder.inode:
        return False
    try:
        with Cgroup.open(holder.cgroup) as cgroup:
            return str(os.fstat(cgroup.fd).st_ino) == holder.inode and cgroup.populated
    except CgroupError:
        return False


def _open(directory: str, flags: int) -> int:
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if flags & os.O_CREAT:
            # What is in there says who may have which CPU, and a lock on it takes one away.
            for path in (os.path.dirname(directory), directory):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path, 0o700)
        return os.open(f"{directory}/{_FILE}", flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        root = isinstance(error, PermissionError)
        raise Unenforceable(
            f"AssignedCPUs: {error.filename}: {error.strerror}",
            hint="Run sdbox as root"
            if root
            else "It is a file of root's, in a file system in memory",
        ) from None


def _lock(fd: int, start: int, kind: int) -> None:
    """Take or leave a lock of the open file description. Raises BlockingIOError."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, start, 1, 0))


def _is_locked(fd: int, start: int) -> bool:
    asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0)
    kind = _LOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    return bool(kind != fcntl.F_UNLCK)


def _read(fd: int, cpu: int) -> str:
    return os.fsdecode(os.pread(fd, _RECORD_BYTES, cpu * _RECORD_BYTES).rstrip(b"\0"))


def _write(fd: int, cpu: int, text: bytes) -> None:
    os.pwrite(fd, text[:_RECORD_BYTES].ljust(_RECORD_BYTES, b"\0"), cpu * _RECORD_BYTES)
