"""Whether two processes have something of the kernel's together: kcmp(2)."""

from __future__ import annotations

import ctypes
import os

_KCMP_VM = 1
# It is older than the table of system calls that all architectures share.
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}

_libc = ctypes.CDLL(None)
_libc.syscall.restype = ctypes.c_long


def have_same_memory(first: int, second: int) -> bool:
    """Whether two processes have one address space. Not where the kernel does not tell."""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return False
    return int(_libc.syscall(number, first, second, _KCMP_VM, 0, 0)) == 0
