"""System calls that Python's standard library does not have, each raising OSError with its path.

Numbers and flags are those of the kernel's own headers for all architectures that share the
table of new system calls (424 and up, Linux 5.1), which is every one that Debian supports.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_REC = 0x4000
MS_SLAVE = 0x80000
MNT_DETACH = 2

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
FSOPEN_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1

PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_SIG_SETMASK = 2
SFD_CLOEXEC = os.O_CLOEXEC
SFD_NONBLOCK = os.O_NONBLOCK
# No number is as high (UINT_MAX).
_LAST_DESCRIPTOR = 0xFFFFFFFF

_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442
_QUOTACTL_FD = 443
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)
    return result


def _syscall(number: int, *arguments: object, path: str = "") -> int:
    return _checked(_libc.syscall(ctypes.c_long(number), *arguments), path)


def close_range(first: int, last: int = _LAST_DESCRIPTOR) -> None:
    """Close descriptors from the first to the last, whether they are open or not."""
    _syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0)


def make_files_as(uid: int, gid: int) -> None:
    """Have the caller, who is root, be another user for all that is about files."""
    # Both return what was before, and fail by leaving that.
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))
    if (_libc.setfsuid(ctypes.c_uint(-1)), _libc.setfsgid(ctypes.c_uint(-1))) != (uid, gid):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def unshare(flags: int) -> None:
    """Give the caller namespaces of its own (CLONE_NEW…)."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def setns(fd: int, flags: int) -> None:
    """Enter the namespaces `flags` of the process, or of the namespace, that `fd` stands for."""
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)))


def prctl(option: int, value: int, more: int = 0) -> None:
    """Set one property of the calling process."""
    _checked(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(more), 0, 0))


class _Program(ctypes.Structure):
    # struct sock_fprog of linux/filter.h; an instruction has 8 bytes.
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def load_call_filter(instructions: bytes) -> None:
    """Have the system calls of the caller pass a program from now on."""
    program = _Program(len(instructions) // 8, instructions)
    # Unlike seccomp(2) it has no number that depends on the machine.
    address = ctypes.byref(program)
    _checked(_libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), address, 0, 0))


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of the caller, as bits."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low_and_high = (ctypes.c_uint32 * 6)()
    _checked(_libc.capget(header, low_and_high))
    effective, permitted, inheritable = (
        low_and_high[n] | low_and_high[n + 3] << 32 for n in range(3)
    )
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set what capget() returns; those that the kernel does not know are ignored."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    wanted = (effective, permitted, inheritable)
    low, high = ([bits >> shift & 0xFFFFFFFF for bits in wanted] for shift in (0, 32))
    _checked(_libc.capset(header, (ctypes.c_uint32 * 6)(*low, *high)))


def _signal_set(signals: Iterable[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * 16)(sum(1 << (number - 1) for number in set(signals)))


def set_blocked(signals: Iterable[int]) -> None:
    """Block these signals, and no others.

    The signal module would look up a name for each one that is or was blocked: up to a
    millisecond, mostly for exceptions, since half of them have none.
    """
    mask = _signal_set(signals)
    _checked(-_libc.pthread_sigmask(_SIG_SETMASK, mask, None))


def signalfd(signals: set[int]) -> int:
    """Return a non-blocking descriptor that reads the signals, which the caller has blocked."""
    mask = _signal_set(signals)
    return _checked(_libc.signalfd(-1, mask, SFD_CLOEXEC | SFD_NONBLOCK))


def make_mounts_slave() -> None:
    """Let no mount made from now on be seen outside; those made outside still arrive."""
    _checked(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None), "/")


def open_tree(fd: int, path: str, flags: int) -> int:
    """Return a detached copy of the mounts at `path` below `fd` (OPEN_TREE_CLONE, AT_…)."""
    flags |= OPEN_TREE_CLOEXEC
    return _syscall(_OPEN_TREE, fd, os.fsencode(path), ctypes.c_uint(flags), path=path)


def move_mount(mount: int, destination: int, path: str) -> None:
    """Attach the detached `mount` on the directory or file that `destination` holds open."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _syscall(_MOVE_MOUNT, mount, b"", destination, b"", ctypes.c_uint(flags), path=path)


def detach(mount: int) -> None:
    """Take away the mount whose root a descriptor stands for."""
    _checked(_libc.umount2(b"/proc/self/fd/%d" % mount, MNT_DETACH), "/")


def mount_setattr(mount: int, attributes: int, *, recursive: bool) -> None:
    """Add MOUNT_ATTR_… to a mount, and to all those below it."""
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _syscall(_MOUNT_SETATTR, mount, b"", ctypes.c_uint(flags), wanted, ctypes.c_size_t(32))


def new_mount(kind: str, attributes: int, **options: str | None) -> int:
    """Return a detached mount of a new file system of that kind. An option of None is a flag."""
    context = _syscall(_FSOPEN, kind.encode(), ctypes.c_uint(FSOPEN_CLOEXEC), path=kind)
    try:
        for key, value in {"source": kind, **options}.items():
            form = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            said = None if value is None else value.encode()
            _syscall(_FSCONFIG, context, form, key.encode(), said, 0, path=kind)
        _syscall(_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0, path=kind)
        flags = (ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))
        return _syscall(_FSMOUNT, context, *flags, path=kind)
    finally:
        os.close(context)


def open_in_root(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path` as if `root` were the root directory: no symlink and no `..` leads out of it."""
    return _openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def open_without_links(above: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path`, with ELOOP where it is a symlink or leads through one."""
    return _openat2(above, path, flags, RESOLVE_NO_SYMLINKS)


def open_below(above: int, path: str, flags: int) -> int:
    """Open `path` below a directory: through no symlink, no `..` out of it, and no mount."""
    resolve = RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_NO_XDEV
    return _openat2(above, path, flags, resolve)


def _openat2(above: int, path: str, flags: int, resolve: int) -> int:
    # struct open_how: flags, mode, resolve
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)
    while True:
        try:
            return _syscall(_OPENAT2, above, os.fsencode(path), how, ctypes.c_size_t(24), path=path)
        except BlockingIOError:
            # The kernel could not rule out a rename in between: openat2(2) says to try again.
            continue


def quotactl(fd: int, command: int, project: int, record: bytes) -> bytes:
    """Carry out a command on the file system of a descriptor; return what is in the record then."""
    buffer = ctypes.create_string_buffer(record, len(record))
    _syscall(_QUOTACTL_FD, fd, ctypes.c_uint(command), ctypes.c_uint(project), buffer)
    return buffer.raw


def pivot_root() -> None:
    """Make the working directory, a mount, the root, and let go of the old root."""
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "pivot_root is not known for this machine", os.uname().machine)
    _syscall(number, b".", b".")
    _checked(_libc.umount2(b".", MNT_DETACH), "/")
    os.chdir("/")
