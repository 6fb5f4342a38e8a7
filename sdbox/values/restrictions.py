"""RestrictNamespaces= and its kin: their words, and the system calls that they deny. Pure.

An assignment of RestrictNamespaces= is text as systemd.exec(5) has it: `yes`, `no`, or the types of
namespaces that may be made and entered, with a `~` in front of those that may not. One of
RestrictAddressFamilies= is `none`, or families in the same way.

A rule is a system call, the errno that it fails with, and what must be so of its arguments for
that: (number, comparison, value) each. Numbers are those of the kernel's own headers, for all
architectures but where it is said.
"""

from __future__ import annotations

import errno

from sdbox.values import WHITESPACE, Refused, as_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    Test = tuple[int, str, int]
    Rule = tuple[str, int, tuple[Test, ...]]

# Comparisons: all bits of the value are set; the lower half, all that the kernel looks at, is the
# value; the whole is more than that; the whole is another one.
HAS, IS, ABOVE, IS_NOT = "has", "is", "above", "is-not"

NAMESPACES = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mnt": 0x00020000,
    "net": 0x40000000,
    "pid": 0x20000000,
    "time": 0x00000080,
    "user": 0x10000000,
    "uts": 0x04000000,
}
_ALL = frozenset(NAMESPACES)

# linux/socket.h, Linux 6.12.
_FAMILY_NAMES = (
    *("UNIX", "INET", "AX25", "IPX", "APPLETALK", "NETROM", "BRIDGE", "ATMPVC", "X25", "INET6"),
    *("ROSE", "DECnet", "NETBEUI", "SECURITY", "KEY", "NETLINK", "PACKET", "ASH", "ECONET"),
    *("ATMSVC", "RDS", "SNA", "IRDA", "PPPOX", "WANPIPE", "LLC", "IB", "MPLS", "CAN", "TIPC"),
    *("BLUETOOTH", "IUCV", "RXRPC", "ISDN", "PHONET", "IEEE802154", "CAIF", "ALG", "NFC", "VSOCK"),
    *("KCM", "QIPCRTR", "SMC", "XDP", "MCTP"),
)
FAMILIES = {f"AF_{name}": number for number, name in enumerate(_FAMILY_NAMES, 1)}
FAMILIES |= {"AF_LOCAL": FAMILIES["AF_UNIX"], "AF_ROUTE": FAMILIES["AF_NETLINK"]}
_NONE = "none"

# Of sched(7): what is neither SCHED_OTHER, SCHED_BATCH nor SCHED_IDLE, and the last of these.
_REAL_TIME, _LAST_POLICY = (1, 2, 4), 5
# S_ISUID and S_ISGID.
_SET_ID = (0o4000, 0o2000)
# O_CREAT and __O_TMPFILE, with which open(2) has a mode.
_CREATES = (0o100, 0o20000000)
_WRITE, _EXECUTE, _SHM_EXECUTE = 2, 4, 0o100000

# What works by a ring in memory no filter sees: sockets and files are made there, too.
_NO_RING = ("io_uring_setup", errno.ENOSYS, ())


def namespaces(raw: object) -> str:
    """One assignment of RestrictNamespaces=, simplified."""
    from sdbox.values.names import boolean

    text = as_text(raw).strip(WHITESPACE)
    try:
        return "yes" if boolean(text) else "no"
    except Refused:
        hint = f"There are {' '.join(NAMESPACES)}"
        return _words(text, NAMESPACES, Refused("is no type of namespaces", hint))


def families(raw: object) -> str:
    """One assignment of RestrictAddressFamilies=, simplified."""
    text = as_text(raw).strip(WHITESPACE)
    complaint = Refused("is no address family", "address_families(7) lists them")
    return _NONE if text == _NONE else _words(text, FAMILIES, complaint)


def _words(text: str, known: Mapping[str, int], complaint: Refused) -> str:
    sign = "~" if text.startswith("~") else ""
    words = text.removeprefix("~").split()
    if not words:
        raise Refused("names nothing")
    for word in words:
        if word not in known:
            raise complaint
    return sign + " ".join(words)


def fold(assignments: Iterable[str]) -> tuple[str, ...]:
    """The assignments without those that a later one makes no difference to."""
    kept: list[str] = []
    for one in assignments:
        if one in ("yes", "no", _NONE):
            kept = []
        kept.append(one)
    return tuple(kept)


def allowed(assignments: Iterable[str]) -> frozenset[str]:
    """The types of namespaces that there may be (load-fragment.c: the first says what is left)."""
    left: frozenset[str] | None = None
    for text in assignments:
        words = frozenset(text.removeprefix("~").split())
        if text in ("yes", "no"):
            left = frozenset() if text == "yes" else _ALL
        elif text.startswith("~"):
            left = (_ALL if left is None else left) - words
        else:
            left = (left or frozenset()) | words
    return _ALL if left is None else left


def rules(
    directives: Mapping[str, Any], *, clone_flags: int = 0, personality: int = 0
) -> Iterator[Rule]:
    """What the directives deny. `clone_flags` is the number of that argument of clone(2)."""
    if "RestrictNamespaces" in directives:
        yield from _namespaces(allowed(directives["RestrictNamespaces"]), clone_flags)
    if directives.get("RestrictAddressFamilies"):
        yield from _families(directives["RestrictAddressFamilies"])
    if directives.get("LockPersonality"):
        yield "personality", errno.EPERM, ((0, IS_NOT, personality),)
    for name, table in _SWITCHES.items():
        if directives.get(name):
            yield from table


def _namespaces(left: frozenset[str], clone_flags: int) -> Iterator[Rule]:
    denied = {name: flag for name, flag in NAMESPACES.items() if name not in left}
    if not denied:
        return
    # Its flags are in memory, where no filter looks; and the C library does without it.
    yield "clone3", errno.ENOSYS, ()
    if not left:
        yield "setns", errno.EPERM, ()
    else:
        # Of whatever type.
        yield "setns", errno.EPERM, ((1, IS, 0),)
    for name, flag in denied.items():
        yield "unshare", errno.EPERM, ((0, HAS, flag),)
        if left:
            yield "setns", errno.EPERM, ((1, HAS, flag),)
        if name != "time":
            # Which clone(2) has no flag for: those bits are a signal's number there.
            yield "clone", errno.EPERM, ((clone_flags, HAS, flag),)


def _families(assignments: Iterable[str]) -> Iterator[Rule]:
    allows: bool | None = None
    named: set[int] = set()
    for text in assignments:
        if text == _NONE:
            allows, named = True, set()
            continue
        inverted = text.startswith("~")
        allows = not inverted if allows is None else allows
        numbers = {FAMILIES[word] for word in text.removeprefix("~").split()}
        named = named | numbers if allows != inverted else named - numbers
    yield _NO_RING
    refused = errno.EAFNOSUPPORT
    last = max(FAMILIES.values())
    if allows:
        yield "socket", refused, ((0, ABOVE, last),)
        named = set(range(last + 1)) - named
    for number in sorted(named):
        yield "socket", refused, ((0, IS, number),)


def _modes() -> Iterator[Rule]:
    yield _NO_RING
    # Its mode is in memory.
    yield "openat2", errno.ENOSYS, ()
    for bit in _SET_ID:
        for call, argument in _WITH_MODE.items():
            yield call, errno.EPERM, ((argument, HAS, bit),)
        for flag in _CREATES:
            yield "open", errno.EPERM, ((1, HAS, flag), (2, HAS, bit))
            yield "openat", errno.EPERM, ((2, HAS, flag), (3, HAS, bit))


# Which argument of a call is a mode.
_WITH_MODE = {
    "chmod": 1,
    "fchmod": 1,
    "fchmodat": 2,
    "fchmodat2": 2,
    "mkdir": 1,
    "mkdirat": 2,
    "mknod": 1,
    "mknodat": 2,
    "creat": 1,
}

_SWITCHES: Mapping[str, tuple[Rule, ...]] = {
    "RestrictRealtime": (
        *(("sched_setscheduler", errno.EPERM, ((1, IS, policy),)) for policy in _REAL_TIME),
        ("sched_setscheduler", errno.EPERM, ((1, ABOVE, _LAST_POLICY),)),
        # Its policy is in memory.
        ("sched_setattr", errno.ENOSYS, ()),
    ),
    "RestrictSUIDSGID": tuple(_modes()),
    "MemoryDenyWriteExecute": (
        ("mmap", errno.EPERM, ((2, HAS, _WRITE | _EXECUTE),)),
        ("mprotect", errno.EPERM, ((2, HAS, _EXECUTE),)),
        ("pkey_mprotect", errno.EPERM, ((2, HAS, _EXECUTE),)),
        ("shmat", errno.EPERM, ((2, HAS, _SHM_EXECUTE),)),
    ),
}
