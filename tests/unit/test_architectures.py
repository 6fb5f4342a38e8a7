"""What becomes of calls of other architectures: programs, run as the kernel runs them."""

from __future__ import annotations

import errno
import operator
import os
import struct
from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.kernel import seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="its calls are those of x86-64"
)

# linux/audit.h; x32 has the same, and a bit in the number.
X86_64, X86, X32_BIT = 0xC000003E, 0x40000003, 0x40000000
KILL, ALLOW, FAIL = 0x80000000, 0x7FFF0000, 0x00050000
DENY = FAIL | errno.EPERM

# linux/bpf_common.h: loads of a word, masks, and the jumps by what they compare.
LOAD, AND, GO, RETURN = 0x20, 0x54, 0x05, 0x06
JUMPS: dict[int, Callable[[int, int], object]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: operator.and_,
}


def fate(programs: list[bytes], architecture: int, number: int, *arguments: int) -> int:
    """What the kernel does about a call by all of them: the strictest comes first there, too."""
    words = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number, architecture, 0, *words)
    given = [_returned(list(struct.iter_unpack("=HBBI", one)), data) for one in programs]
    return next((action for action in (KILL, DENY) if action in given), ALLOW)


def _returned(program: list[tuple[int, ...]], data: bytes) -> int:
    at = word = 0
    while True:
        code, if_so, if_not, constant = program[at]
        at += 1
        if code == RETURN:
            return constant
        if code == LOAD:
            word = struct.unpack_from("=I", data, constant)[0]
        elif code == AND:
            word &= constant
        elif code == GO:
            at += constant
        else:
            at += if_so if JUMPS[code](word, constant) else if_not


def programs(**directives: str) -> list[bytes]:
    return seccomp.programs(Box.from_mapping(directives).directives)


# A call that is denied, by its numbers on x86-64 and on i386, and its arguments.
CALLS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "PrivateDevices": (172, 110, (3,)),  # iopl
    "ProtectKernelModules": (175, 128, ()),  # init_module
    "RestrictNamespaces": (272, 310, (0x10000000,)),  # unshare
    "RestrictRealtime": (144, 156, (0, 1)),  # sched_setscheduler
    "RestrictSUIDSGID": (90, 15, (0, 0o4755)),  # chmod
    "LockPersonality": (135, 136, (8,)),  # personality
}
# getpid, of both.
HARMLESS = (39, 20, ())


def fates(given: list[bytes], call: tuple[int, int, tuple[int, ...]]) -> Iterator[int]:
    """Of x86-64, x32 and i386."""
    number, of_x86, arguments = call
    yield fate(given, X86_64, number, *arguments)
    yield fate(given, X86_64, X32_BIT | number, *arguments)
    yield fate(given, X86, of_x86, *arguments)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_denied_is_so_for_all_architectures(name: str) -> None:
    made = programs(**{name: "yes"})
    assert list(fates(made, CALLS[name])) == [DENY] * 3
    assert list(fates(made, HARMLESS)) == [ALLOW] * 3


@pytest.mark.parametrize("name", CALLS)
def test_only_those_are_left_that_are_named(name: str) -> None:
    made = programs(**{name: "yes", "SystemCallArchitectures": "x86"})
    assert list(fates(made, CALLS[name])) == [DENY, KILL, DENY]
    assert list(fates(made, HARMLESS)) == [ALLOW, KILL, ALLOW]
    made = programs(**{name: "yes", "SystemCallArchitectures": "native"})
    assert list(fates(made, HARMLESS)) == [ALLOW, KILL, KILL]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SystemCallFilter", "~mount"),
        ("RestrictAddressFamilies", "AF_UNIX"),
        ("MemoryDenyWriteExecute", "yes"),
    ],
)
def test_there_are_no_others_beside_what_is_not_known_of_them(name: str, value: str) -> None:
    made = programs(**{name: value, "PrivateDevices": "yes"})
    assert list(fates(made, HARMLESS)) == [ALLOW, KILL, KILL]
