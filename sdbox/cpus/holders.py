"""Who has which CPUs: a record for each CPU in a file, locked by whoever holds that.

It is locked through a descriptor that the processes have that end the job: its helper and its init,
not its payload. So the CPU is free again when they are gone, however they went, and the kernel
itself sees to that. What the record says, the job and its cgroup, informs people. One thing more is
told by it: should helper and init have been killed, and the payload live on, its CPUs are not free.
So that no later job is taken for that one, a cgroup is told by its inode number as well.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sdbox.cgroup import Cgroup, CgroupError
from sdbox.cpus.register import known
from sdbox.errors import Unenforceable
from sdbox.kernel import locks
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdbox.cpus.register import Register

# Of a job's id and the path of its cgroup, NUL bytes after that.
_RECORD_BYTES = 4096
# Whoever chooses CPUs holds the byte there, beyond all records.
CHOOSING = 1 << 40


@record
class Holder:
    """Who holds a CPU. All is empty where it has not been written down yet.

    `inode` is the cgroup's, empty where the job is not in it yet. `is_roots`, for another user than
    root: it is a job of root's, of which he is told no more.
    """

    job: str = ""
    cgroup: str = ""
    inode: str = ""
    is_roots: bool = False


def holders(cpus: Iterable[int], registers: Iterable[Register] | None = None) -> dict[int, Holder]:
    """Return who holds which of these CPUs, root or this user. Raises Unenforceable."""
    wanted = frozenset(cpus)
    found: dict[int, Holder] = {}
    for register in known() if registers is None else registers:
        found |= _own(register, wanted) if register.is_own else _roots(register)
    return {cpu: found[cpu] for cpu in sorted(wanted & found.keys())}


def _own(register: Register, cpus: Iterable[int]) -> dict[int, Holder]:
    try:
        fd = register.open(os.O_RDONLY)
    except FileNotFoundError:
        return {}
    try:
        found = {cpu: holder(fd, cpu) for cpu in cpus}
    finally:
        os.close(fd)
    return {cpu: one for cpu, one in found.items() if one is not None}


def _roots(register: Register) -> dict[int, Holder]:
    places = register.locked() - {CHOOSING}
    return {place // _RECORD_BYTES: Holder(is_roots=True) for place in places}


def holder(fd: int, cpu: int) -> Holder | None:
    """Return who holds a CPU by the register that is open, but for who has `fd`."""
    text = os.fsdecode(os.pread(fd, _RECORD_BYTES, cpu * _RECORD_BYTES).rstrip(b"\0"))
    job, cgroup, inode, *_ = (*text.split("\n"), "", "", "")
    found = Holder(job=job, cgroup=cgroup, inode=inode)
    return found if locks.is_taken(fd, cpu * _RECORD_BYTES) or _is_populated(found) else None


def _is_populated(holder: Holder) -> bool:
    """Whether something runs in just that cgroup."""
    if not holder.inode:
        return False
    try:
        with Cgroup.open(holder.cgroup) as cgroup:
            return str(os.fstat(cgroup.fd).st_ino) == holder.inode and cgroup.populated
    except CgroupError:
        return False


def hold(fd: int, cpu: int) -> None:
    """Take a CPU that nobody holds, for nobody yet."""
    locks.take(fd, cpu * _RECORD_BYTES)
    write(fd, cpu, "")


def write(fd: int, cpu: int, text: str) -> None:
    """Write down whose a CPU is."""
    data = os.fsencode(text)[:_RECORD_BYTES]
    os.pwrite(fd, data.ljust(_RECORD_BYTES, b"\0"), cpu * _RECORD_BYTES)


def settle(
    job: str, cpus: Iterable[int], cgroup: Cgroup, *, register: Register | None = None
) -> None:
    """Write down of a job's CPUs which cgroup it has come to. Raises Unenforceable."""
    text = f"{job}\n{cgroup.name}\n{os.fstat(cgroup.fd).st_ino}"
    place = register or known()[0]
    fd = place.open(os.O_RDWR | os.O_CREAT)
    try:
        for cpu in cpus:
            if not locks.is_taken(fd, cpu * _RECORD_BYTES):
                # While it waited, perhaps. Nobody looks any more at the one that it has locked.
                raise Unenforceable(
                    f"AssignedCPUs: {place.path}: somebody has removed it, with what the job holds",
                    hint="Try again",
                )
            write(fd, cpu, text)
    finally:
        os.close(fd)
