"""From the forked child of init to the payload: what a process can only do to itself, then exec."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterable

from sdbox.init import syscalls
from sdbox.init.steps import StepError, step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# As env(1) and the shells search when the environment has no PATH.
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


# In a module of their own, which only who needs it pays for.
_ABOUT_PRIVILEGE = frozenset({"CapabilityBoundingSet", "AmbientCapabilities", "SystemCallFilter"})

# What a process hands down, so that init can do it as well, while systemd is at work.
_HANDED_DOWN = frozenset({"OOMScoreAdjust", "NoNewPrivileges"})

_proc: int | None = None


def prepare(spec: dict[str, Any]) -> None:
    """Do what can be done before the fork, and get what is out of reach after the mounts.

    An init that is to outlive a kill for memory has an OOM score of its own.
    """
    global _proc
    early = _HANDED_DOWN - ({"OOMScoreAdjust"} if spec["spare_init"] else set())
    _do([one for one in spec["process"] if one[0] in early])
    spec["process"] = [one for one in spec["process"] if one[0] not in early]
    if spec["protections"]:
        _proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if not _ABOUT_PRIVILEGE.isdisjoint(name for name, _ in spec["process"]):
        from sdbox.init import privilege

        _OPERATIONS.update(privilege.OPERATIONS)


def become(spec: dict[str, Any], go: int) -> None:
    """Turn this process into the payload, once `go` is set; return only by StepError."""
    _reset_signals(spec["ignored_signals"])
    # Not later: a filter of system calls may forbid it.
    os.eventfd_read(go)
    _do(spec["process"])
    _exec(spec["argv"], dict(spec["environment"]))


def _do(operations: Iterable[tuple[str, dict[str, Any]]]) -> None:
    for name, arguments in operations:
        with step(name):
            _OPERATIONS[name](**arguments)


def _reset_signals(ignored: Iterable[int]) -> None:
    """Keep ignored what the caller ignores on purpose (nohup); the helper has undone the rest."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    syscalls.set_blocked(())


def _inherit(
    *,
    uid: int,
    gid: int,
    groups: list[int] | None,
    umask: int,
    nice: int,
    limits: dict[int, tuple[int, int]],
    cpus: tuple[int, ...],
) -> None:
    """Give a service's process what a child of the caller would have.

    An ordinary user, for whom `groups` is None, has his manager's groups, and limits up to its.
    """
    os.umask(umask)
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    for number, (soft, hard) in limits.items():
        if groups is None:
            soft, hard = _within(number, soft), _within(number, hard)
        _limit(resource_number=number, soft=soft, hard=hard)
    try:
        os.sched_setaffinity(0, cpus or os.sched_getaffinity(0))
    except OSError as error:
        # EINVAL: none of them is the unit's to use, which is where a child would be moved to.
        if error.errno != errno.EINVAL:
            raise
    if groups is not None:
        _credentials(uid=uid, gid=gid, groups=groups)


def _within(resource_number: int, limit: int) -> int:
    """Return a limit that an ordinary user, who can't raise his hard one, may have here."""
    most = resource.getrlimit(resource_number)[1]
    if most == resource.RLIM_INFINITY:
        return limit
    return most if limit == resource.RLIM_INFINITY else min(limit, most)


def _affinity(*, cpus: list[int]) -> None:
    os.sched_setaffinity(0, cpus)


def _oom_score_adjust(*, value: int) -> None:
    with open("/proc/self/oom_score_adj", "r+b", buffering=0, opener=_open_in_proc) as file:
        current = int(file.read())
        # An ordinary user's manager may have given his services a higher one, which he can't lower.
        if current != value and (os.geteuid() == 0 or value > current):
            file.write(b"%d" % value)


def _open_in_proc(path: str, flags: int) -> int:
    """Open a file of the /proc that there was before the mounts, which may be read-only."""
    if _proc is None:
        return os.open(path, flags)
    return os.open(path.removeprefix("/proc/"), flags, dir_fd=_proc)


def _limit(*, resource_number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(resource_number, (soft, hard))
    except ValueError:
        # Python's word for EPERM here: only CAP_SYS_RESOURCE may raise a hard limit.
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from None


def _credentials(*, uid: int | None, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    if uid is not None:
        os.setresuid(uid, uid, uid)


def _no_new_privileges() -> None:
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def _working_directory(*, path: str, ignore_missing: bool) -> None:
    try:
        os.chdir(path)
    except FileNotFoundError:
        if not ignore_missing:
            raise
        os.chdir("/")


_OPERATIONS: dict[str, Callable[..., None]] = {
    "OOMScoreAdjust": _oom_score_adjust,
    "Inherit": _inherit,
    "CPUAffinity": _affinity,
    "Limit": _limit,
    "User": _credentials,
    "NoNewPrivileges": _no_new_privileges,
    "WorkingDirectory": _working_directory,
}


def _exec(argv: list[bytes], environment: dict[bytes, bytes]) -> None:
    """Execute as execvp(3) does: the first candidate that is there, EACCES remembered."""
    program = argv[0]
    failure = errno.ENOENT
    for candidate in _candidates(program, environment):
        try:
            os.execve(candidate, argv, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                raise StepError("exec", os.fsdecode(program), error.errno or 0) from error
            if error.errno == errno.EACCES:
                failure = errno.EACCES
    raise StepError("exec", os.fsdecode(program), failure)


def _candidates(program: bytes, environment: dict[bytes, bytes]) -> list[bytes]:
    if b"/" in program:
        return [program]
    path = environment.get(b"PATH", _DEFAULT_PATH)
    return [os.path.join(directory or b".", program) for directory in path.split(b":")]
