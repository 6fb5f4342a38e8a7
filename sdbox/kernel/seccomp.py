"""Filters of system calls as programs for the kernel, made by libseccomp."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.kernel.callgroups import groups
from sdbox.values import callfilter, restrictions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdbox.values.restrictions import Rule, Test

_LIBRARY = "libseccomp.so.2"

# libseccomp's seccomp.h.
_ACT_KILL_PROCESS = 0x80000000
_ACT_ERRNO = 0x00050000
_ACT_ALLOW = 0x7FFF0000
_ATTRIBUTE_BAD_ARCHITECTURE = 2
_ATTRIBUTE_OPTIMIZE = 8
_BINARY_TREE = 2
_COMPARE_OTHER, _COMPARE_ABOVE, _COMPARE_MASKED = 1, 6, 7
_UNKNOWN = -1
# asm-generic/ioctls.h, but for PowerPC, which has the same numbers for these.
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# The same for all architectures; an older libseccomp does not have them by their names.
_NEW_CALLS = {"io_uring_setup": 425, "clone3": 435, "openat2": 437, "fchmodat2": 452}
# Of other architectures, the calls for these are others, or tell by memory what they do.
_NATIVE_ONLY = ("RestrictAddressFamilies", "MemoryDenyWriteExecute")
# What else a machine may run, by libseccomp's names: systemd's seccomp_local_archs, where the bytes
# of a word are in the same order. It can't have others in one program.
_SECONDARY = {
    "x86_64": ("x86", "x32"),
    "aarch64": ("arm",),
    "ppc64": ("ppc",),
    "s390x": ("s390",),
}
# sys/personality.h.
_QUERY, _DOMAIN, _LINUX32 = 0xFFFFFFFF, 0xFF, 8

# Without these, init could not tell what kept the payload from starting. systemd adds `write`, too.
_INITS_OWN = "write"


# What other directives forbid, systemd.exec(5).
_IMPLIED = {"ProtectKernelModules": "@module", "PrivateDevices": "@raw-io"}


class _Comparison(ctypes.Structure):
    # struct scmp_arg_cmp
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def programs(directives: Mapping[str, Any]) -> list[bytes]:
    """Return what is to be loaded, in this order. Raises Unenforceable and InvalidDirective."""
    # First, while nothing has forbidden to load another.
    architectures = _architectures(directives)
    implied = [group for name, group in _IMPLIED.items() if directives.get(name)]
    given = [_program([f"~{group}:EPERM"], callfilter.KILL, architectures) for group in implied]
    lines = directives.get("SystemCallFilter", ())
    denied_calls = [*_restrictions(directives), *(_NO_TYPING if lines else ())]
    if denied_calls:
        given.append(_denying(denied_calls, architectures))
    if lines or directives.get("SystemCallArchitectures"):
        denied = callfilter.error_number(directives.get("SystemCallErrorNumber", "kill"))
        given.append(_program(lines, denied, architectures))
    return given


def _architectures(directives: Mapping[str, Any]) -> Sequence[str] | None:
    """Return whose calls there are beside the machine's own; None for all that it runs."""
    named: Sequence[str] = directives.get("SystemCallArchitectures", ())
    # Who lists calls means those that he knows of.
    only = named or any(directives.get(name) for name in ("SystemCallFilter", *_NATIVE_ONLY))
    return named if only else None


def _restrictions(directives: Mapping[str, Any]) -> list[Rule]:
    others = [n for n in directives.get("SystemCallArchitectures", ()) if n != callfilter.NATIVE]
    for name in _NATIVE_ONLY:
        if directives.get(name) and others:
            raise Unenforceable(
                f"{name}: it can't be kept for calls of {others[0]}",
                hint="Leave it out, or the other SystemCallArchitectures",
            )
    # On this one, the stack comes first.
    flags = 1 if os.uname().machine.startswith("s390") else 0
    found = restrictions.rules(directives, clone_flags=flags, personality=_personality())
    return list(dict.fromkeys(found))


def _personality() -> int:
    """Return the execution domain that a job has from here: 32 or 64 bits."""
    domain: int = ctypes.CDLL(None).personality(ctypes.c_ulong(_QUERY))
    return _LINUX32 if domain & _DOMAIN == _LINUX32 else 0


# Nobody types into a terminal, and so to the shell outside.
_NO_TYPING: tuple[Rule, ...] = tuple(
    ("ioctl", errno.EPERM, ((1, restrictions.IS, request),)) for request in (_TIOCSTI, _TIOCLINUX)
)
# Which half of an argument counts, or what of it.
_COMPARISONS: Mapping[str, Callable[[int], tuple[int, int, int]]] = {
    restrictions.HAS: lambda value: (_COMPARE_MASKED, value, value),
    restrictions.IS: lambda value: (_COMPARE_MASKED, 0xFFFFFFFF, value),
    restrictions.ABOVE: lambda value: (_COMPARE_ABOVE, value, 0),
    restrictions.IS_NOT: lambda value: (_COMPARE_OTHER, value, 0),
}


def _denying(rules: Sequence[Rule], architectures: Sequence[str] | None) -> bytes:
    """Return the program that denies just these."""
    library = _library()
    context = library.seccomp_init(_ACT_ALLOW)
    try:
        _add_architectures(library, context, architectures)
        for call, number, tests in rules:
            _deny(library, context, call, number, tests)
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _deny(
    library: ctypes.CDLL, context: int, call: str, number: int, tests: Sequence[Test]
) -> None:
    resolved = library.seccomp_syscall_resolve_name(call.encode())
    if resolved == _UNKNOWN:
        resolved = _NEW_CALLS[call]
    wanted = [_Comparison(n, *_COMPARISONS[how](value)) for n, how, value in tests]
    array = (_Comparison * len(wanted))(*wanted)
    action = _ACT_ERRNO | number
    result = library.seccomp_rule_add_array(context, action, resolved, len(wanted), array)
    # EDOM: no call of this architecture.
    if result not in (0, -errno.EEXIST, -errno.EDOM):
        raise Unenforceable(
            f"libseccomp takes no rule for arguments of {call}: {os.strerror(-result)}",
            hint="Update it, or leave out what restricts that call",
        )


def unavailable(name: str = "SystemCallFilter") -> Unenforceable | None:
    """Return what keeps a directive's programs from being made here, if anything does."""
    try:
        _library()
        if name == "SystemCallFilter" or name in _IMPLIED:
            groups()
    except Unenforceable as error:
        return error
    return None


def _program(lines: Sequence[str], denied: int, architectures: Sequence[str] | None) -> bytes:
    otherwise, table = callfilter.ALLOW, dict[str, int]()
    library = _library()
    if lines:
        _check(library, lines)
        otherwise, table = callfilter.resolve(lines, groups())
    if otherwise != callfilter.ALLOW:
        table[_INITS_OWN] = callfilter.ALLOW
    context = library.seccomp_init(_action(otherwise, denied))
    try:
        _add_architectures(library, context, architectures)
        for name, becomes in table.items():
            _add_rule(library, context, name, _action(becomes, denied))
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _action(becomes: int, denied: int) -> int:
    number = denied if becomes == callfilter.DENY else becomes
    if number == callfilter.KILL:
        return _ACT_KILL_PROCESS
    return _ACT_ERRNO | number if number else _ACT_ALLOW


def _check(library: ctypes.CDLL, lines: Sequence[str]) -> None:
    """Refuse names of nothing: left out, they would not be denied."""
    for name in callfilter.named(lines):
        if name in groups() or library.seccomp_syscall_resolve_name(name.encode()) != _UNKNOWN:
            continue
        raise InvalidDirective(
            f"SystemCallFilter: there is no {name}",
            hint="`systemd-analyze syscall-filter` lists groups and system calls",
        )


def _add_architectures(
    library: ctypes.CDLL, context: int, architectures: Sequence[str] | None
) -> None:
    """Allow calls of these, too; those of others end the process. The native one is in it."""
    library.seccomp_attr_set(context, _ATTRIBUTE_BAD_ARCHITECTURE, _ACT_KILL_PROCESS)
    # Many rules, a few comparisons. Before libseccomp 2.5 it is slower, and means the same.
    library.seccomp_attr_set(context, _ATTRIBUTE_OPTIMIZE, _BINARY_TREE)
    for name in _secondary(library) if architectures is None else architectures:
        if name == callfilter.NATIVE:
            continue
        token = library.seccomp_arch_resolve_name(callfilter.libseccomp_name(name).encode())
        result = library.seccomp_arch_add(context, token) if token else -1
        if result not in (0, -errno.EEXIST):
            raise Unenforceable(
                f"SystemCallArchitectures: {name} does not go with this machine's",
                hint="Give native, or an architecture that this machine can run",
            )


def _secondary(library: ctypes.CDLL) -> Sequence[str]:
    native = library.seccomp_arch_native()
    known = (n for n in _SECONDARY if library.seccomp_arch_resolve_name(n.encode()) == native)
    return _SECONDARY.get(next(known, ""), ())


def _add_rule(library: ctypes.CDLL, context: int, name: str, action: int) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == _UNKNOWN:
        # Of a group: systemd knows more calls than this libseccomp.
        return
    result = library.seccomp_rule_add(context, action, number, 0)
    # EDOM: no call of this architecture.
    if result not in (0, -errno.EDOM):
        raise Unenforceable(
            f"SystemCallFilter: libseccomp takes no rule for {name}: {os.strerror(-result)}",
            hint="Leave it out of the filter",
        )


def _exported(library: ctypes.CDLL, context: int) -> bytes:
    memory = os.memfd_create("sdbox-filter", os.MFD_CLOEXEC)
    with open(memory, "rb") as file:
        result = library.seccomp_export_bpf(context, memory)
        if result:
            raise Unenforceable(
                f"SystemCallFilter: libseccomp makes no program of it: {os.strerror(-result)}",
                hint="Make it simpler",
            )
        file.seek(0)
        return file.read()


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise Unenforceable(
            f"Filters of system calls need {_LIBRARY}, which is not installed",
            hint="Install libseccomp2, or leave them out",
        ) from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_rule_add.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint)
    ]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    ]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library
