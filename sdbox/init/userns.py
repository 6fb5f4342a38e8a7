"""A user namespace: with one of its own, an ordinary user's box can have all other namespaces.

The user and his group stay who they are, with no right outside that they did not have. All others'
files show as nobody's there, and supplementary groups, which still hold, as nogroup.
"""

from __future__ import annotations

import ctypes
import os
import signal

from sdbox.init import syscalls
from sdbox.init.steps import step

STEP = "user namespace"

_CLONE3 = 435
# struct clone_args of Linux 5.3: flags, pidfd, child_tid, parent_tid, exit_signal, stack,
# stack_size, tls.
_ARGUMENTS = 8


def fork() -> int:
    """Fork a child that is the first process of a PID namespace, in a user namespace of its own.

    The parent stays where it is, which by unshare(2) and fork(2) it could not. It must have one
    thread.
    """
    arguments = (ctypes.c_uint64 * _ARGUMENTS)()
    arguments[0] = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID
    arguments[4] = signal.SIGCHLD
    # With the interpreter's lock held: nobody is there to take it in the child.
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    with step(STEP):
        pid = libc.syscall(ctypes.c_long(_CLONE3), arguments, ctypes.c_size_t(_ARGUMENTS * 8))
        if pid < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    return int(pid)


def enter() -> None:
    """Take this process to a user namespace of its own."""
    with step(STEP):
        syscalls.unshare(syscalls.CLONE_NEWUSER)


def map_self(uid: int, gid: int) -> None:
    """Be, in this process's new user namespace, the user and the group that it was before."""
    with step(STEP):
        # user_namespaces(7): or nobody without rights outside may map a group.
        _write("setgroups", "deny")
        _write("gid_map", f"{gid} {gid} 1")
        _write("uid_map", f"{uid} {uid} 1")


def _write(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "wb", buffering=0) as file:
        file.write(text.encode())
