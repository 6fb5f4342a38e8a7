"""The syntaxes of directives: each reads a value, writes it, and describes itself.

A syntax has one job: to turn what a caller gave into the typed value, or into one clear line of
complaint. Scalars are Syntax; what is assigned item by item is ListSyntax.
"""

from __future__ import annotations

from sdbox import callfilter, capabilities, filesystems, names, quantities, quoting
from sdbox.errors import InvalidDirective
from sdbox.record import record
from sdbox.values import WHITESPACE, Refused, as_text, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

_TEXT = {"type": "string", "minLength": 1}
_NUMBER_OR_TEXT = {"type": ["integer", "string"], "minimum": 0, "minLength": 1}


@record
class Syntax:
    """The syntax of one value. `read` takes text or a natural Python type."""

    word: str
    """Stands for a value in help texts: BYTES."""
    noun: str
    """What a value is, for messages: a size."""
    hint: str
    """How to write one."""
    parse: Callable[[str], Any]
    """Text to value; raises Refused."""
    format: Callable[[Any], str] = as_text
    """Value to systemd's text."""
    schema: Mapping[str, Any]
    """JSON schema of what `read` takes."""

    def read(self, raw: object, where: str) -> Any:
        """The value that `raw` says. Raises InvalidDirective, naming `where` it was given."""
        try:
            return self.parse(as_text(raw))
        except Refused as refusal:
            raise invalid(self, raw, refusal, where) from None

    def to_json(self, value: Any) -> str:
        """The value as `read` takes it back."""
        return self.format(value)


@record
class ListSyntax:
    """The syntax of a tuple of items: text in systemd's syntax, or a sequence of items.

    An item of a sequence is not unquoted and not split: what it holds is what is meant.
    """

    word: str
    noun: str
    """What an item is, for messages."""
    hint: str
    split: Callable[[str], Iterable[Any]]
    """systemd's text to items as `item` takes them; raises Refused."""
    item: Callable[[Any], Any]
    """One item to its value; raises Refused."""
    fold: Callable[[Iterable[Any]], tuple[Any, ...]] = tuple
    """Items' values to the value; what is said twice, once."""
    unfold: Callable[[tuple[Any, ...]], Iterable[Any]]
    """The value's items as `item` takes them."""
    join: Callable[[Iterable[Any]], str]
    """Items to systemd's text."""
    schema: Mapping[str, Any]
    nothing: str = ""
    """The item that an empty text stands for, where that is more than to forget what was before."""

    def items(self, raw: Any, where: str) -> list[Any]:
        """The items in `raw`. An empty text among them says: forget what came before."""
        if isinstance(raw, (str, bytes)):
            return self._split(raw, where)
        if hasattr(raw, "items"):
            raw = raw.items()
        items = list(raw) or [""] if hasattr(raw, "__iter__") else [raw]
        return [self.nothing if item == "" else item for item in items]

    def _split(self, raw: str | bytes, where: str) -> list[Any]:
        try:
            text = as_text(raw)
            items = list(self.split(text)) if text.strip(WHITESPACE) else [self.nothing]
        except Refused as refusal:
            raise invalid(self, raw, refusal, where) from None
        if "" in items[1:] or (items == [""] and text.strip(WHITESPACE)):
            raise invalid(self, raw, Refused("has an empty item"), where)
        return items

    def read_items(self, items: Iterable[Any], where: str) -> tuple[Any, ...]:
        """The value of `items`. Raises InvalidDirective, naming `where` they were given."""
        return self.fold([self._read_item(item, where) for item in items])

    def _read_item(self, item: Any, where: str) -> Any:
        try:
            return self.item(item)
        except Refused as refusal:
            raise invalid(self, item, refusal, where) from None

    def read(self, raw: object, where: str) -> tuple[Any, ...]:
        """The value that `raw` says, for callers to whom a reset means nothing."""
        return self.read_items((item for item in self.items(raw, where) if item != ""), where)

    def append(self, value: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
        """`value`, assigned to once more."""
        return self.fold([self.item(item) for item in (*self.unfold(value), *self.unfold(more))])

    def format(self, value: tuple[Any, ...]) -> str:
        """The value as systemd's text."""
        return self.join(self.unfold(value))

    def to_json(self, value: tuple[Any, ...]) -> list[str]:
        """The value as `read` takes it back, item by item."""
        return [as_text(item) for item in self.unfold(value)]


def invalid(
    syntax: Syntax | ListSyntax, raw: object, refusal: Refused, where: str
) -> InvalidDirective:
    """The error that tells where `raw` was given, what is wrong with it, and the remedy."""
    problem = refusal.problem or f"is not {syntax.noun}"
    return InvalidDirective(f"{where}: {shown(raw)} {problem}", hint=refusal.hint or syntax.hint)


_SIZE_HINT = "Give bytes with an optional suffix K, M, G or T, a percentage, or infinity"
_PLAIN_SIZE_HINT = "Give bytes with an optional suffix K, M, G or T, or infinity"

# Below this a process can't even exec, and systemd's user manager has been seen to hang over
# such limits (systemd issue 40208).
LEAST_MEMORY = 1024 * 1024
_LEAST_HINT = "Give at least 1M: with less, no program can start"


def _size_or_share(least: int) -> Callable[[str], Any]:
    return quantities.or_percent(
        quantities.or_infinity(quantities.at_least(least, quantities.size, _LEAST_HINT))
    )


def _sizes(parse: Callable[[str], Any], hint: str) -> Syntax:
    return Syntax(
        word="BYTES",
        noun="a size",
        hint=hint,
        parse=parse,
        format=quantities.format_size,
        schema=_NUMBER_OR_TEXT,
    )


MEMORY_LIMIT = _sizes(_size_or_share(LEAST_MEMORY), _SIZE_HINT)
MEMORY_MARK = _sizes(_size_or_share(1), _SIZE_HINT)
SWAP_LIMIT = _sizes(quantities.or_infinity(quantities.size), _PLAIN_SIZE_HINT)

_MORE_HINT = "Give more than 0"
DISK_LIMIT = _sizes(
    quantities.or_infinity(quantities.at_least(1, quantities.size, _MORE_HINT)), _PLAIN_SIZE_HINT
)
TMPFS_SIZE = _sizes(
    quantities.or_percent(quantities.at_least(1, quantities.size, _MORE_HINT)),
    "Give bytes with an optional suffix K, M, G or T, or a percentage of the memory",
)

TASKS = Syntax(
    word="N",
    noun="a number of tasks",
    hint="Give a number, a percentage, or infinity",
    parse=quantities.or_percent(
        quantities.or_infinity(lambda text: quantities.positive(quantities.count(text)))
    ),
    schema=_NUMBER_OR_TEXT,
)

QUOTA = Syntax(
    word="PERCENT",
    noun="a percentage",
    hint="Give a share of one CPU such as 50%, or 200% for two",
    parse=quantities.percent,
    schema={"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]{1,2})?%\s*$"},
)

WEIGHT = Syntax(
    word="WEIGHT",
    noun="a weight",
    hint="Give 1 to 10000 (the default is 100), or idle",
    parse=names.weight,
    schema={"type": ["integer", "string"], "minimum": 1, "maximum": 10_000},
)

SPAN = Syntax(
    word="TIME",
    noun="a span of time",
    hint="Give seconds, or units as in 1h 30min, or infinity",
    parse=quantities.positive_span,
    schema={"type": ["number", "string"], "exclusiveMinimum": 0, "minLength": 1},
)

SIGNAL = Syntax(
    word="SIGNAL",
    noun="a signal",
    hint="Give a name such as SIGTERM or RTMIN+3, or a number from 1 to 64",
    parse=names.signal_number,
    format=names.format_signal,
    schema={"type": ["integer", "string"], "minimum": 1, "maximum": 64},
)

BOOLEAN = Syntax(
    word="BOOL",
    noun="yes or no",
    hint="Give yes or no",
    parse=names.boolean,
    schema={"type": ["boolean", "string"]},
)

PRIVATE_TMP = Syntax(
    word="MODE",
    noun="a kind of private /tmp",
    hint="Give yes (directories on disk), disconnected (one tmpfs) or no",
    parse=names.private_tmp,
    format={"no": "no", "connected": "yes", "disconnected": "disconnected"}.__getitem__,
    schema={"type": ["boolean", "string"]},
)

EPHEMERAL = Syntax(
    word="tmpfs|DIR",
    noun="a place for what is written",
    hint="Give yes for memory, an absolute path for a directory, or no",
    parse=names.ephemeral,
    schema={"type": ["boolean", "string"]},
)

PATH = Syntax(
    word="DIR",
    noun="a path",
    hint="Give an absolute path",
    parse=names.path,
    schema=_TEXT | {"pattern": "^/"},
)

ROOT = Syntax(
    word="NAME|DIR",
    noun="a root's name or a path",
    hint="Give an absolute path, or a name that `sdbox roots` lists",
    parse=names.root,
    schema=_TEXT,
)

DIRECTORY = Syntax(
    word="DIR",
    noun="a directory",
    hint="Give an absolute path or ~, with a - in front where it may be missing",
    parse=names.working_directory,
    schema=_TEXT | {"pattern": "^-?(/|~$)"},
)

ACCOUNT = Syntax(
    word="NAME",
    noun="a user's or group's name or number",
    hint="Give a name as the system knows it, or a number",
    parse=names.user_name,
    schema=_NUMBER_OR_TEXT,
)

SLICE = Syntax(
    word="SLICE",
    noun="the name of a slice",
    hint="Give a unit's name such as batch.slice or batch-night.slice",
    parse=names.slice_name,
    schema=_TEXT | {"pattern": r"\.slice$"},
)

LINE = Syntax(
    word="TEXT",
    noun="a line of text",
    hint="Give one line of printable text",
    parse=names.one_line,
    schema=_TEXT,
)

OOM_POLICY = Syntax(
    word="POLICY",
    noun="a policy",
    hint="Give continue, stop or kill",
    parse=names.choice("continue", "stop", "kill"),
    schema={"enum": ["continue", "stop", "kill"]},
)


def _limits(word: str, parse: Callable[[str], int], what: str) -> Syntax:
    return Syntax(
        word=f"{word}[:{word}]",
        noun="a resource limit",
        hint=f"Give {what}, or soft:hard",
        parse=quantities.resource_limit(parse),
        schema={"type": ["integer", "string"], "minLength": 1},
    )


LIMIT_NUMBER = _limits("N", quantities.or_infinity(quantities.count), "a number or infinity")
LIMIT_SIZE = _limits(
    "BYTES",
    quantities.or_infinity(quantities.size),
    "bytes with an optional suffix K, M, G or T, or infinity",
)
LIMIT_SECONDS = _limits("TIME", quantities.cpu_seconds, "seconds, a span of time or infinity")
LIMIT_USEC = _limits("TIME", quantities.microseconds, "microseconds, a span of time or infinity")
LIMIT_NICE = _limits("NICE", quantities.nice_limit, "-20 to +19 with its sign, or 0 to 40 without")


def _list_schema(items: Mapping[str, Any], *others: str) -> dict[str, Any]:
    return {"type": ["string", "array", *others], "items": items}


CPUS = ListSyntax(
    word="CPUS",
    noun="a CPU or a range of them",
    hint="Give numbers and ranges such as 0-3,8",
    split=names.split_cpus,
    item=names.cpu_range,
    fold=names.union,
    unfold=names.format_cpus,
    join=",".join,
    schema=_list_schema({"type": ["integer", "string"], "minimum": 0}, "integer"),
)

CPU_REQUEST = Syntax(
    word="N|LIST",
    noun="a number of CPUs or a list of them",
    hint="Give how many, or which, as in 0,4-5; 3-3 is CPU 3 alone",
    parse=names.cpu_request,
    format=names.format_cpu_request,
    schema=_NUMBER_OR_TEXT,
)

GPU_REQUEST = Syntax(
    word="LIST|none",
    noun="a choice of GPUs",
    hint="Give which, as in 0,2-3, or none",
    parse=names.gpu_request,
    schema=_NUMBER_OR_TEXT,
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
    from sdbox import addresses

    return addresses.item(raw)


def _device_rule(raw: Any) -> tuple[str, str]:
    from sdbox import devices

    return devices.rule(raw)


def _format_device_rules(rules: Iterable[tuple[str, str]]) -> list[str]:
    from sdbox import devices

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
    schema=_list_schema({"type": "string"}),
)

DEVICE_RULES = ListSyntax(
    word="NODE [rwm]",
    noun="a device and what may be done",
    hint="Give a node such as /dev/fuse, or a group such as char-pts or block-*, and any of rwm",
    split=names.lines,
    item=_device_rule,
    fold=names.last_of_each,
    unfold=_format_device_rules,
    join="\n".join,
    schema=_list_schema({"type": "string"}),
)

BINDS = ListSyntax(
    word="SRC[:DST]",
    noun="a bind mount",
    hint=r"Give SRC or SRC:DST, absolute paths, with \: for a colon in a path",
    split=names.split_binds,
    item=names.bind,
    fold=names.each_once,
    unfold=lambda binds: map(str, binds),
    join=lambda items: " ".join(map(quoting.escape_blanks, items)),
    schema=_list_schema({"type": "string"}),
)


def _mounts(word: str, noun: str, hint: str, item: Callable[[Any], Any]) -> ListSyntax:
    return ListSyntax(
        word=word,
        noun=noun,
        hint=hint,
        split=names.split_binds,
        item=item,
        fold=names.each_once,
        unfold=lambda mounts: map(str, mounts),
        join=lambda items: " ".join(map(quoting.escape_blanks, items)),
        schema=_list_schema({"type": "string"}),
    )


TMPFS = _mounts(
    "PATH[:OPTIONS]",
    "a file system in memory",
    "Give PATH or PATH:OPTIONS, as in /scratch:size=1G,mode=1777",
    filesystems.tmpfs,
)

IMAGES = _mounts(
    "IMAGE:DST",
    "an image to be mounted",
    r"Give IMAGE:DST, absolute paths, with \: for a colon in a path",
    filesystems.image,
)

PATHS = ListSyntax(
    word="DIR,…",
    noun="a path",
    hint="Give absolute paths",
    split=lambda text: quoting.split_words(text, quoting.literal_escape),
    item=filesystems.below_root,
    fold=names.each_once,
    unfold=iter,
    join=lambda items: " ".join(map(quoting.quote_literal, items)),
    schema=_list_schema({"type": "string"}),
)

VARIABLES = ListSyntax(
    word="NAME=VALUE",
    noun="a variable",
    hint="Give NAME=VALUE",
    split=lambda text: quoting.split_words(text, quoting.c_escape),
    item=names.variable,
    fold=names.last_of_each,
    unfold=names.format_variables,
    join=lambda items: " ".join(map(quoting.quote_c, items)),
    schema=_list_schema({"type": "string"}, "object"),
)

DEVICE_RATES = ListSyntax(
    word="PATH BYTES",
    noun="a path and a rate",
    hint="Give a path and bytes a second, with an optional suffix K, M, G or T (base 1000)",
    split=names.split_device_rates,
    item=names.device_rate,
    fold=names.last_of_each,
    unfold=names.format_device_rates,
    join=lambda items: "\n".join(map(names.quote_device_rate, items)),
    schema=_list_schema({"type": "string"}),
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
    schema=_list_schema({"type": "string"}),
    nothing=capabilities.NONE,
)

SYSTEM_CALLS = ListSyntax(
    word="CALLS",
    noun="a list of system calls",
    hint="Give names and @groups as in @system-service, with ~ in front to deny them",
    split=names.split_lines,
    item=callfilter.assignment,
    unfold=lambda value: value,
    join="\n".join,
    schema=_list_schema({"type": "string"}),
)

ERROR_NUMBER = Syntax(
    word="ERRNO",
    noun="an error number",
    hint="Give a name such as EPERM, a number up to 4095, or kill",
    parse=callfilter.error_name,
    schema={"type": ["integer", "string"], "minimum": 1, "maximum": 4095},
)

ARCHITECTURES = ListSyntax(
    word="ARCHITECTURES",
    noun="an architecture",
    hint="Give native, or names such as x86",
    split=str.split,
    item=callfilter.architecture,
    fold=names.each_once,
    unfold=lambda value: value,
    join=" ".join,
    schema=_list_schema({"type": "string"}),
)


def _namespaces(raw: Any) -> str:
    from sdbox import restrictions

    return restrictions.namespaces(raw)


def _families(raw: Any) -> str:
    from sdbox import restrictions

    return restrictions.families(raw)


def _restrictions(assignments: Iterable[str]) -> tuple[str, ...]:
    from sdbox import restrictions

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
        **_list_schema({"type": ["boolean", "string"]}),
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
    schema=_list_schema({"type": "string"}),
)

PROTECT_SYSTEM = Syntax(
    word="MODE",
    noun="a kind of protection",
    hint="Give yes (programs), full (and /etc), strict (all) or no",
    parse=names.word_or_switch("full", "strict"),
    schema={"type": ["boolean", "string"]},
)

PROTECT_HOME = Syntax(
    word="MODE",
    noun="a kind of protection",
    hint="Give yes (inaccessible), read-only, tmpfs (empty) or no",
    parse=names.word_or_switch("read-only", "tmpfs"),
    schema={"type": ["boolean", "string"]},
)

_PROTECT_PROC = ("default", "noaccess", "invisible", "ptraceable")

PROTECT_PROC = Syntax(
    word="MODE",
    noun="a kind of protection",
    hint="Give noaccess, invisible, ptraceable or default",
    parse=names.choice(*_PROTECT_PROC),
    schema={"enum": [*_PROTECT_PROC]},
)

ACCESS_PATHS = ListSyntax(
    word="PATH",
    noun="a path",
    hint="Give absolute paths, with - in front of one that may be missing",
    split=names.split_paths,
    item=names.access_path,
    fold=names.each_once,
    unfold=lambda value: value,
    join=lambda items: " ".join(map(quoting.quote_literal, items)),
    schema=_list_schema({"type": "string"}),
)
