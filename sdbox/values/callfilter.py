"""SystemCallFilter= and its kin: their words, and what they come down to, call by call. Pure.

An assignment is text as systemd.exec(5) has it: names of system calls and of @groups, with a `~`
in front of them all where they are denied; each of those may have `:ERRNO` behind it.
"""

from __future__ import annotations

import errno

from sdbox.values import WHITESPACE, Refused, as_text
from sdbox.values.quantities import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

# What becomes of a call. Numbers above 0 are errnos that it fails with.
ALLOW, KILL, DENY = 0, -1, -2
_ERRNO_MAX = 4095
# As Python has them, but for one; errorcode has a single name for each.
_NUMBERS = {name: getattr(errno, name) for name in dir(errno) if name.startswith("E")}
_NUMBERS |= {"EHWPOISON": 133}
_SECOND_NAMES = ("EWOULDBLOCK", "EDEADLOCK", "ENOTSUP")
_NAMES = {number: name for name, number in _NUMBERS.items() if name not in _SECOND_NAMES}
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")

# systemd's names and libseccomp's, where they differ.
_ARCHITECTURES = {"x86-64": "x86_64", "arm64": "aarch64", "ppc64-le": "ppc64le"}
NATIVE = "native"
_OTHERS = ("x86", "x32", "arm", "ppc", "ppc64", "riscv64", "s390", "s390x", "loongarch64")


def assignment(raw: object) -> str:
    """One assignment, simplified."""
    text = as_text(raw).strip(WHITESPACE)
    sign = "~" if text.startswith("~") else ""
    words = text.removeprefix("~").split()
    if not words:
        raise Refused("names no system call")
    for word in words:
        _check(word, denied=bool(sign))
    return sign + " ".join(words)


def _check(word: str, *, denied: bool) -> None:
    name, colon, number = word.partition(":")
    if not _LETTERS.issuperset(name.removeprefix("@")) or not name.removeprefix("@"):
        raise Refused("is not the name of a system call or of a @group")
    if colon and not denied:
        raise Refused("has an error number for what is allowed", "Deny it with ~ in front")
    if colon:
        error_number(number)


def error_number(raw: object) -> int:
    """An errno by its name or number, or KILL."""
    text = as_text(raw).strip(WHITESPACE)
    if text == "kill":
        return KILL
    number = _NUMBERS.get(text) or count(text)
    if not 1 <= number <= _ERRNO_MAX:
        raise Refused
    return number


def error_name(text: str) -> str:
    """An errno's name, or its number where it has none; or `kill`."""
    number = error_number(text)
    return "kill" if number == KILL else _NAMES.get(number, str(number))


def architecture(raw: object) -> str:
    """An architecture by systemd's name."""
    text = as_text(raw).strip(WHITESPACE)
    if text not in (NATIVE, *_ARCHITECTURES, *_OTHERS):
        raise Refused
    return text


def libseccomp_name(name: str) -> str:
    """What libseccomp calls an architecture."""
    return _ARCHITECTURES.get(name, name)


def named(assignments: Iterable[str]) -> Iterator[str]:
    """The names in them, calls and groups."""
    for line in assignments:
        for word in line.removeprefix("~").split():
            yield word.partition(":")[0]


def resolve(
    assignments: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> tuple[int, dict[str, int]]:
    """What becomes of calls that are not named, and of those that are: ALLOW, DENY, KILL, an errno.

    As systemd adds assignments up (load-fragment.c, config_parse_syscall_filter): the first one
    settles what holds for what is not named. `groups` must have every group that is named.
    """
    if assignments[0].startswith("~"):
        otherwise, table = ALLOW, {}
    else:
        otherwise, table = DENY, dict.fromkeys(calls("@default", groups), ALLOW)
    for line in assignments:
        for word in line.removeprefix("~").split():
            name, _, number = word.partition(":")
            becomes = DENY if line.startswith("~") else ALLOW
            table |= dict.fromkeys(calls(name, groups), error_number(number) if number else becomes)
    return otherwise, {name: becomes for name, becomes in table.items() if becomes != otherwise}


def calls(name: str, groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The calls of a group and of those in it; a call is itself."""
    if not name.startswith("@"):
        yield name
        return
    for member in groups[name]:
        yield from calls(member, groups)
