"""The kernel's programs on a cgroup, by which it keeps a unit's addresses and devices: bpf(2).

systemd says `done` where it could not attach them, too. So whether they are there is asked of the
kernel itself. Numbers are those of the kernel's include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from sdbox.errors import Unenforceable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_PROG_LOAD, _PROG_QUERY = 5, 16
# What programs are attached as, and the type of program that is.
_ATTACH = {"ingress": 0, "egress": 1, "device": 6}
# What a slice has itself, for all that is in it.
OF_SLICES = ("device",)
_TYPES = {"ingress": 8, "egress": 8, "device": 15}
# union bpf_attr, its `query`: target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
_QUERY = struct.Struct("=IIIIQI")
# Its beginning for a program to be loaded: prog_type, insn_cnt, insns, license.
_LOAD = struct.Struct("=IIQQ")
# struct bpf_insn: opcode, registers, offset, immediate. "Return 1", which allows.
_INSTRUCTION = struct.Struct("=BBhi")
_TRIVIAL = _INSTRUCTION.pack(0xB7, 0, 0, 1) + _INSTRUCTION.pack(0x95, 0, 0, 0)
# More than any kernel's fields of a command: what it does not know has to be 0.
_ATTR_BYTES = 128

_KEEPS = {"ingress": "addresses", "egress": "addresses", "device": "devices"}
REMEDY = (
    "It takes a kernel with CONFIG_CGROUP_BPF, a manager that may use bpf(2) (CAP_BPF,"
    " CAP_NET_ADMIN), and the unified cgroup hierarchy; `journalctl -b` has what systemd says"
)


def check(cgroup: int, unit: str, programs: Sequence[str]) -> None:
    """Make sure that a unit's cgroup, an open directory, has these. Raises Unenforceable."""
    for program in programs:
        try:
            there = attached(cgroup, program)
        except OSError as error:
            raise Unenforceable(
                f"{unit}: whether the kernel keeps its {_KEEPS[program]} can't be told:"
                f" bpf(2): {error.strerror}",
                hint=REMEDY,
            ) from None
        if not there:
            raise Unenforceable(
                f"{unit}: systemd has started it without what keeps its {_KEEPS[program]}, a BPF"
                f" program on its cgroup ({program})",
                hint=REMEDY,
            )


def attached(cgroup: int, program: str) -> int:
    """Return how many programs of a kind are attached to a cgroup itself. Raises OSError."""
    query = _QUERY.pack(cgroup, _ATTACH[program], 0, 0, 0, 0)
    try:
        answer = _bpf(_PROG_QUERY, query)[1]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # There are some, and no room for their numbers was given.
        return 1
    return int(_QUERY.unpack_from(answer)[5])


def missing() -> str:
    """Return why programs of these kinds can't be attached by this process; empty if they can."""
    instructions, license_ = ctypes.create_string_buffer(_TRIVIAL), ctypes.create_string_buffer(b"")
    for kind in sorted(set(_TYPES.values())):
        words = (kind, len(_TRIVIAL) // _INSTRUCTION.size)
        load = _LOAD.pack(*words, ctypes.addressof(instructions), ctypes.addressof(license_))
        try:
            os.close(_bpf(_PROG_LOAD, load)[0])
        except OSError as error:
            return f"bpf(2): {error.strerror}"
    return ""


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Return the call's result, and the attributes as the kernel leaves them. Raises OSError."""
    number = _BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, "bpf(2) is not known for this machine")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    size = ctypes.c_uint(_ATTR_BYTES)
    result = libc.syscall(ctypes.c_long(number), ctypes.c_int(command), buffer, size)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result), buffer.raw
