"""The syntaxes of directives about what it can see and do."""

from __future__ import annotations

from sdbox.syntax import NUMBER_OR_TEXT, ListSyntax, Syntax, list_schema
from sdbox.syntax.common import MORE_HINT, sizes
from sdbox.values import capabilities, names, quantities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


TMPFS_SIZE = sizes(
    quantities.or_percent(quantities.at_least(1, quantities.size, MORE_HINT)),
    "Give bytes with an optional suffix K, M, G or T, or a percentage of the memory",
)

PRIVATE_TMP = Syntax(
    word="MODE",
    noun="a kind of private /tmp",
    hint="Give yes (directories on disk), disconnected (one tmpfs) or no",
    parse=names.private_tmp,
    format={"no": "no", "connected": "yes", "disconnected": "disconnected"}.__getitem__,
    schema={"type": ["boolean", "string"]},
)

GPU_REQUEST = Syntax(
    word="LIST|none",
    noun="a choice of GPUs",
    hint="Give which, as in 0,2-3, or none",
    parse=names.gpu_request,
    schema=NUMBER_OR_TEXT,
)

DEVICE_POLICY = Syntax(
    word="POLICY",
    noun="a policy for devices",
    hint="Give auto, closed or strict",
    parse=names.choice("auto", "closed", "strict"),
    schema={"enum": ["auto", "closed", "strict"]},
)


# What is rarely asked for is not imported before.
def _address(raw: Any) -> str:
    from sdbox.values import addresses

    return addresses.item(raw)


def _device_rule(raw: Any) -> tuple[str, str]:
    from sdbox.values import devices

    return devices.rule(raw)


def _format_device_rules(rules: Iterable[tuple[str, str]]) -> list[str]:
    from sdbox.values import devices

    return devices.format_rules(rules)


ADDRESSES = ListSyntax(
    word="ADDRESS",
    noun="an address",
    hint="Give 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32; or any, localhost, link-local, multicast",
    split=str.split,
    item=_address,
    fold=names.each_once,
    unfold=tuple,
    join=" ".join,
    schema=list_schema({"type": "string"}),
)

DEVICE_RULES = ListSyntax(
    word="NODE [rwm]",
    noun="a device and what may be done",
    hint="Give a node such as /dev/fuse, or a group such as char-pts or block-*, and any of rwm",
    split=names.split_lines,
    item=_device_rule,
    fold=names.last_of_each,
    unfold=_format_device_rules,
    join="\n".join,
    schema=list_schema({"type": "string"}),
)

CAPABILITIES = ListSyntax(
    word="CAPABILITIES",
    noun="a list of capabilities",
    hint="Give names as in CAP_CHOWN CAP_KILL, ~ and names for all others, or none",
    split=names.split_lines,
    item=capabilities.assignment,
    fold=capabilities.fold,
    unfold=lambda value: value,
    join="\n".join,
    schema=list_schema({"type": "string"}),
    nothing=capabilities.NONE,
)


def _calls(raw: Any) -> str:
    from sdbox.values import callfilter

    return callfilter.assignment(raw)


def _error_name(text: str) -> str:
    from sdbox.values import callfilter

    return callfilter.error_name(text)


def _architecture(raw: Any) -> str:
    from sdbox.values import callfilter

    return callfilter.architecture(raw)


SYSTEM_CALLS = ListSyntax(
    word="CALLS",
    noun="a list of system calls",
    hint="Give names and @groups as in @system-service, with ~ in front to deny them",
    split=names.split_lines,
    item=_calls,
    unfold=lambda value: value,
    join="\n".join,
    schema=list_schema({"type": "string"}),
)

ERROR_NUMBER = Syntax(
    word="ERRNO",
    noun="an error number",
    hint="Give a name such as EPERM, a number up to 4095, or kill",
    parse=_error_name,
    schema={"type": ["integer", "string"], "minimum": 1, "maximum": 4095},
)

ARCHITECTURES = ListSyntax(
    word="ARCHITECTURES",
    noun="an architecture",
    hint="Give native, or names such as x86",
    split=str.split,
    item=_architecture,
    fold=names.each_once,
    unfold=lambda value: value,
    join=" ".join,
    schema=list_schema({"type": "string"}),
)


def _namespaces(raw: Any) -> str:
    from sdbox.values import restrictions

    return restrictions.namespaces(raw)


def _families(raw: Any) -> str:
    from sdbox.values import restrictions

    return restrictions.families(raw)


def _restrictions(assignments: Iterable[str]) -> tuple[str, ...]:
    from sdbox.values import restrictions

    return restrictions.fold(assignments)


NAMESPACE_TYPES = ListSyntax(
    word="NAMESPACES",
    noun="a list of namespaces",
    hint="Give yes for none at all, no, or types as in user mnt, with ~ in front for all others",
    split=names.split_lines,
    item=_namespaces,
    fold=_restrictions,
    unfold=lambda value: value,
    join="\n".join,
    schema={
        **list_schema({"type": ["boolean", "string"]}),
        "type": ["boolean", "string", "array"],
    },
)

ADDRESS_FAMILIES = ListSyntax(
    word="FAMILIES",
    noun="a list of address families",
    hint="Give names as in AF_UNIX AF_INET, with ~ in front for all others, or none",
    split=names.split_lines,
    item=_families,
    fold=_restrictions,
    unfold=lambda value: value,
    join="\n".join,
    schema=list_schema({"type": "string"}),
)
_PROTECT_PROC = ("default", "noaccess", "invisible", "ptraceable")

PROTECT_PROC = Syntax(
    word="MODE",
    noun="a kind of protection",
    hint="Give noaccess, invisible, ptraceable or default",
    parse=names.choice(*_PROTECT_PROC),
    schema={"enum": [*_PROTECT_PROC]},
)
