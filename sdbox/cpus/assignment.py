"""CPUs that a job has for itself: no other job is given them, whoever launches it on this host."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

from sdbox import loop
from sdbox.cpus import register, topology
from sdbox.cpus.holders import CHOOSING, hold, holder, holders, write
from sdbox.errors import CPUsTaken, TimedOut, Unenforceable
from sdbox.kernel.inotify import IN_CLOSE_WRITE, Inotify
from sdbox.kernel.locks import leave, take
from sdbox.record import record
from sdbox.values.names import format_cpu_request, format_cpus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sdbox.cpus.holders import Holder
    from sdbox.cpus.register import Register
    from sdbox.cpus.topology import Cpu, CPUs
    from sdbox.plan import Plan
    from sdbox.values import CPURequest

_CHOOSING_SECONDS = 10.0
_CHOOSING_PAUSE_SECONDS = 0.002
# The kernel tells of a close before it lets go of the locks (__fput in its fs/file_table.c), and a
# job whose init was killed has still to end.
_LOOK_AGAIN_SECONDS = (0.01, 0.1, 0.3, 1.0)
# What it tells nothing of is the end of a payload that nobody sees to.
_LOOK_ANYWAY_SECONDS = 5.0
# Nor does it tell users when root's register is closed, or anything who has it tell too much.
_LOOK_UNTOLD_SECONDS = 1.0
_TOO_MANY = (errno.EMFILE, errno.ENOSPC)


@record
class Claim:
    """CPUs that are held for as long as anybody has `fd` open."""

    cpus: tuple[int, ...]
    fd: int

    def sign(self, plan: Plan, cgroup_root: str) -> None:
        """Write down whose they are."""
        for cpu in self.cpus:
            write(self.fd, cpu, f"{plan.job}\n{cgroup_root}{plan.tree}")

    def close(self) -> None:
        """Let go of them here."""
        os.close(self.fd)


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
            open(f"{cgroup}/cpuset.cpus.effective", encoding="utf-8") as file,
        ):
            return topology.parse(file.read().strip())
        cgroup = os.path.dirname(cgroup)
    return None


@record
class _Search:
    """What is asked for, and where. `registers` are as sdbox.cpus.register.known() has them."""

    request: CPURequest
    allowed: CPUs
    topology: Mapping[int, Cpu]
    registers: Sequence[Register]
    fd: int


async def claim(
    request: CPURequest,
    allowed: CPUs,
    *,
    seconds: float = 0.0,
    registers: Sequence[Register] | None = None,
    sysfs: str = topology.SYSFS,
) -> Claim:
    """Take the CPUs that are asked for, of those allowed; wait so long for them to be free.

    Raises Unenforceable where they can never be had, and CPUsTaken.
    """
    known = topology.read(sysfs)
    allowed &= known.keys()
    _check(request, allowed)
    registers = registers or register.known()
    fd = registers[0].open(os.O_RDWR | os.O_CREAT)
    search = _Search(request=request, allowed=allowed, topology=known, registers=registers, fd=fd)
    try:
        return Claim(cpus=await _taken(search, seconds), fd=fd)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise register.unusable(registers[0].path, error, "Make room for it") from None
        raise


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


async def _taken(search: _Search, seconds: float) -> tuple[int, ...]:
    cpus = await _try(search)
    if cpus is not None:
        return cpus
    if seconds <= 0:
        raise _busy(search, seconds)
    with _changes(search.fd) as changes:
        return await _waited_for(search, seconds, changes)


@contextlib.contextmanager
def _changes(fd: int) -> Iterator[Inotify | None]:
    """Have changes of a file told; None where this user has as many told as he may."""
    with contextlib.ExitStack() as stack:
        changes: Inotify | None = None
        try:
            changes = stack.enter_context(Inotify())
            changes.add(f"/proc/self/fd/{fd}", IN_CLOSE_WRITE)
        except OSError as error:
            if error.errno not in _TOO_MANY:
                raise
            changes = None
        yield changes


async def _waited_for(search: _Search, seconds: float, changes: Inotify | None) -> tuple[int, ...]:
    end = time.monotonic() + seconds
    untold = changes is None or search.registers[1:]
    anyway = _LOOK_UNTOLD_SECONDS if untold else _LOOK_ANYWAY_SECONDS
    pauses: tuple[float, ...] = ()
    while True:
        # At first as well: it may have been free before changes were told.
        cpus = await _try(search)
        if cpus is not None:
            return cpus
        left = end - time.monotonic()
        if left <= 0:
            raise _busy(search, seconds)
        first, *rest = pauses or (anyway,)
        told = await _told(changes, min(first, left))
        pauses = _LOOK_AGAIN_SECONDS if told else tuple(rest)


async def _told(changes: Inotify | None, seconds: float) -> bool:
    """Wait for somebody to let go of CPUs; return whether that was before so many seconds."""
    if changes is None:
        await loop.sleep(seconds)
        return False
    with contextlib.suppress(TimedOut):
        async with loop.within(seconds, "CPUs"):
            await loop.readable(changes.fd)
        changes.drain()
        return True
    return False


async def _try(search: _Search) -> tuple[int, ...] | None:
    """Take the CPUs if they are free, while nobody else takes any."""
    await _begin_choosing(search)
    try:
        cpus = _chosen(search, search.allowed - _held(search, search.allowed).keys())
        for cpu in cpus or ():
            hold(search.fd, cpu)
        return cpus
    finally:
        leave(search.fd, CHOOSING)


def _held(search: _Search, cpus: Iterable[int]) -> dict[int, Holder]:
    own = {cpu: holder(search.fd, cpu) for cpu in cpus}
    others = holders(cpus, search.registers[1:])
    return others | {cpu: one for cpu, one in own.items() if one is not None}


def _chosen(search: _Search, free: CPUs) -> tuple[int, ...] | None:
    if search.request.cpus:
        return search.request.cpus if free.issuperset(search.request.cpus) else None
    return topology.choose(search.request.count, free, search.topology)


async def _begin_choosing(search: _Search) -> None:
    """Have the right to take CPUs, which everybody has for less than a millisecond."""
    end = time.monotonic() + _CHOOSING_SECONDS
    while True:
        try:
            take(search.fd, CHOOSING)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimedOut(
                    f"AssignedCPUs: another sdbox has kept its lock on {search.registers[0].path}"
                    f" for {_CHOOSING_SECONDS:g} s",
                    hint="See whether one is stopped: `ps -C sdbox`",
                ) from None
            await loop.sleep(_CHOOSING_PAUSE_SECONDS)
        else:
            return


def _busy(search: _Search, seconds: float) -> CPUsTaken:
    request, allowed = search.request, search.allowed
    held = {cpu: _name(one) for cpu, one in _held(search, request.cpus or allowed).items()}
    who = ", ".join(
        f"{name} has {_named(cpu for cpu in held if held[cpu] == name)}"
        for name in sorted(set(held.values()))
    )
    asked = _named(request.cpus) if request.cpus else f"{request.count} of {_named(allowed)}"
    waited = f" after {seconds:g} s" if seconds else ""
    return CPUsTaken(
        f"AssignedCPUs={format_cpu_request(request)}: {asked} can't be had{waited}: {who}",
        hint="Ask for others, or wait longer" if seconds else "Wait for them with --wait-cpus",
    )


def _name(holder: Holder) -> str:
    return "root" if holder.is_roots else holder.job or "a job that starts"
