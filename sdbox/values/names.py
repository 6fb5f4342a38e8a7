"""Parsers of names, paths, choices and of the items of lists.

Each takes text and gives a value, or raises Refused, with systemd's syntax (systemd.exec(5)).
"""

from __future__ import annotations

from sdbox.values import (
    WHITESPACE,
    Bind,
    CPURequest,
    GPURequest,
    Refused,
    WorkingDirectory,
    as_text,
    escape_field,
)
from sdbox.values.quantities import count, decimal_size, format_decimal_size, or_infinity, positive
from sdbox.values.quoting import literal_escape, quote_literal, split_fields, split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGITS = "0123456789"
_TRUE = ("1", "yes", "y", "true", "t", "on")
_FALSE = ("0", "no", "n", "false", "f", "off")

# The most CPUs that Linux can be built for (NR_CPUS), and systemd's own bound.
_CPUS_MAX = 8192
# More than any machine has; a range without an end would be a lot of numbers.
_GPUS_MAX = 1024
_PATH_MAX = 4096  # with the closing NUL byte: limits.h
_NAME_MAX = 255
_UNIT_NAME_MAX = 255  # systemd's UNIT_NAME_MAX, without the NUL byte


def boolean(text: str) -> bool:
    """systemd's spellings of yes and no, in any case."""
    word = text.strip(WHITESPACE).lower()
    if word not in _TRUE + _FALSE:
        raise Refused
    return word in _TRUE


def choice(*words: str) -> Callable[[str], str]:
    """One of `words`."""

    def parser(text: str) -> str:
        word = text.strip(WHITESPACE)
        if word not in words:
            raise Refused
        return word

    return parser


def private_tmp(text: str) -> str:
    """`no`, `connected` (which yes means) or `disconnected`: systemd's PrivateTmpEx."""
    word = text.strip(WHITESPACE)
    if word in ("connected", "disconnected"):
        return word
    return "connected" if boolean(word) else "no"


def ephemeral(text: str) -> str:
    """`no`, `yes` (in memory), or the directory for what is written."""
    if text.startswith("/"):
        return path(text)
    return "yes" if boolean(text) else "no"


def weight(text: str) -> int | str:
    """1 to 10000, or `idle`."""
    if text.strip(WHITESPACE) == "idle":
        return "idle"
    number = count(text)
    if not 1 <= number <= 10_000:
        raise Refused
    return number


def path(text: str) -> str:
    """An absolute path, simplified, without `..`."""
    if not text.startswith("/"):
        raise Refused("is not an absolute path", "Begin the path with /")
    names = [name for name in text.split("/") if name not in ("", ".")]
    if ".." in names:
        raise Refused('has a ".." in it', "Write out the path that is meant")
    simple = "/" + "/".join(names)
    lengths = [len(name.encode("utf-8", "surrogateescape")) for name in names]
    if sum(lengths) + len(names) >= _PATH_MAX or any(n > _NAME_MAX for n in lengths):
        raise Refused("is too long for a path", "Linux takes 4095 bytes, 255 a name")
    return simple


def below_root(text: str) -> str:
    """An absolute path that is not / itself."""
    place = path(text)
    if place == "/":
        raise Refused("is /, which nothing can be mounted on", "Name a directory below it")
    return place


def working_directory(text: str) -> WorkingDirectory:
    """An absolute path or `~`; with a `-` in front it may be missing."""
    missing_ok = text.startswith("-")
    place = text.removeprefix("-")
    return WorkingDirectory(path=place if place == "~" else path(place), missing_ok=missing_ok)


def user_name(text: str) -> str:
    """A user's or group's name, or a number.

    Names by systemd's relaxed rules, which let pass what directory services make, such as
    `first.last` and `DOMAIN\\user` (systemd.io/USER_NAMES), but none with a blank in it.
    """
    if not text.strip(_DIGITS):
        return _account_number(text)
    unsafe = any(c in ":/" or c.isspace() or not c.isprintable() for c in text)
    if unsafe or text[0] in "-+" or text in (".", "..") or len(text) > 256:
        raise Refused
    return text


def _account_number(text: str) -> str:
    number = count(text)
    # 2^16 - 1 and 2^32 - 1 mean "none" to the kernel.
    if number in (2**16 - 1, 2**32 - 1) or number >= 2**32 or str(number) != text:
        raise Refused
    return text


def slice_name(text: str) -> str:
    """The name of a slice unit; dashes are its levels, so none may be empty."""
    stem = text.removesuffix(".slice")
    if stem == text or len(text) > _UNIT_NAME_MAX:
        raise Refused
    if stem != "-" and not all(stem.split("-")):
        raise Refused("has an empty level between its dashes")
    if stem.strip(_LETTERS + _DIGITS + ":-_.\\"):
        raise Refused("has a character that no unit's name may have")
    return text


def one_line(text: str) -> str:
    """Printable text on one line, encodable as UTF-8, as D-Bus and the journal want it."""
    if not text.strip() or not text.isprintable():
        raise Refused
    return text


def signal_number(text: str) -> int:
    """A signal's number from its name, with or without SIG, or from `RTMIN+3`."""
    word = text.strip(WHITESPACE)
    if not word.strip(_DIGITS) and word:
        return _valid_signal(count(word))
    name, plus, offset = word.removeprefix("SIG").partition("+")
    if plus and name != "RTMIN":
        raise Refused
    return _valid_signal(_signal_named(name) + (count(offset) if plus else 0))


def _signal_named(name: str) -> int:
    import signal

    try:
        return int(signal.Signals["SIG" + name])
    except KeyError:
        raise Refused from None


def _valid_signal(number: int) -> int:
    if not 1 <= number <= 64:
        raise Refused
    return number


def format_signal(number: int) -> str:
    """The signal's name: `SIGTERM`, `SIGRTMIN+3`; its number where it has none."""
    import signal

    if signal.SIGRTMIN < number <= signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    known = number in signal.Signals.__members__.values()
    return signal.Signals(number).name if known else str(number)


def cpu_range(raw: object) -> tuple[int, ...]:
    """The CPUs of one item, `3` or `0-7`."""
    text = as_text(raw)
    if text == "numa":
        raise Refused("needs NUMAMask, which sdbox does not have", "List the CPUs: 0-3,8")
    return _range(text, "CPUs", _CPUS_MAX)


def _range(text: str, what: str, most: int) -> tuple[int, ...]:
    low_text, dash, high_text = text.partition("-")
    low = count(low_text)
    high = count(high_text) if dash else low
    if high >= most:
        raise Refused("is too high a number", f"{what} are 0 to {most - 1}")
    if low > high:
        raise Refused("begins after its end", "Give the smaller number first")
    return tuple(range(low, high + 1))


def union(items: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """All numbers of `items`, in order, each once."""
    return tuple(sorted({number for item in items for number in item}))


def format_cpus(cpus: Iterable[int]) -> list[str]:
    """The fewest ranges that say it, as the kernel writes them: 0-3, 8."""
    ranges: list[list[int]] = []
    for cpu in cpus:
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return [str(low) if low == high else f"{low}-{high}" for low, high in ranges]


def cpu_request(text: str) -> CPURequest:
    """How many CPUs, from a number alone; or which, from a list or a range: `0,4-5`, `3-3`."""
    word = text.strip(WHITESPACE)
    if word and not word.strip(_DIGITS):
        return CPURequest(count=_few_cpus(positive(count(word))))
    cpus = union(cpu_range(item) for item in split_cpus(text))
    if not cpus:
        raise Refused
    return CPURequest(count=len(cpus), cpus=cpus)


def _few_cpus(number: int) -> int:
    if number > _CPUS_MAX:
        raise Refused("is more than Linux can have", f"It has at most {_CPUS_MAX} CPUs")
    return number


def format_cpu_request(request: CPURequest) -> str:
    """The number or the list, in the fewest ranges."""
    if len(request.cpus) < 2:
        return str(request)
    return ",".join(format_cpus(request.cpus))


def gpu_request(text: str) -> GPURequest:
    """Which GPUs, from a list or ranges of their numbers, or `none`."""
    if text.strip(WHITESPACE) == "none":
        return GPURequest(gpus=())
    gpus = union(_range(item, "GPUs", _GPUS_MAX) for item in split_cpus(text))
    if not gpus:
        raise Refused
    return GPURequest(gpus=gpus)


def root(text: str) -> str:
    """An absolute path, or the name of one of the configuration's roots."""
    if "/" in text:
        return path(text)
    return root_name(text)


def root_name(text: str) -> str:
    """A name for a root directory: it can't be taken for a path, an option or a list."""
    allowed = _LETTERS + _DIGITS + "._+-"
    if not text or text.strip(allowed) or text[0] in ".-" or len(text) > _NAME_MAX:
        raise Refused
    return text


def bind(raw: object) -> Bind:
    """One bind mount, `[-]SRC[:DST[:rbind|norbind]]`; a backslash takes a colon into the path."""
    text = as_text(raw)
    ignore_missing = text.startswith("-")
    source, *rest = fields(text.removeprefix("-"))
    destination, *options = rest or [source]
    if options not in ([], ["rbind"], ["norbind"]):
        raise Refused("has an option that no bind mount takes", "Give SRC:DST:rbind or norbind")
    return Bind(
        source=path(source),
        destination=below_root(destination),
        ignore_missing=ignore_missing,
        recursive=options != ["norbind"],
    )


def fields(text: str) -> list[str]:
    r"""The fields of one item: `\:` and `\\` are escapes, any other backslash is a backslash."""
    found, at = [""], 0
    while at < len(text):
        escaped = text[at] == "\\" and text[at + 1 : at + 2] in (":", "\\")
        at += escaped
        if text[at] == ":" and not escaped:
            found.append("")
        else:
            found[-1] += text[at]
        at += 1
    return found


def split_binds(text: str) -> list[str]:
    """The items of systemd's BindPaths line, each as `bind` takes it."""
    words = split_fields(text, literal_escape)
    return [":".join(escape_field(field) for field in fields) for fields in words]


def access_path(raw: object) -> str:
    """A path with systemd's prefixes: `-`, it may be missing; `+`, it is in the root directory."""
    text = as_text(raw)
    may_be_missing = "-" if text.startswith("-") else ""
    rest = text.removeprefix("-")
    in_root = "+" if rest.startswith("+") else ""
    return may_be_missing + in_root + path(rest.removeprefix("+"))


def split_paths(text: str) -> list[str]:
    """Paths with blanks between them, quoted as systemd has it."""
    return split_words(text, literal_escape)


def word_or_switch(*words: str) -> Callable[[str], str]:
    """One of `words`, or `yes` or `no` in any of systemd's spellings."""

    def parser(text: str) -> str:
        word = text.strip(WHITESPACE)
        if word in words:
            return word
        return "yes" if boolean(word) else "no"

    return parser


def each_once(items: Iterable[Any]) -> tuple[Any, ...]:
    """`items` in their order, what is said twice once."""
    return tuple(dict.fromkeys(items))


def variable(raw: Any) -> tuple[str, str]:
    """One environment variable, from `K=V` or a pair.

    Names are what execve(2) takes and not only what a shell does: batch environments carry
    functions under names such as `BASH_FUNC_module%%`.
    """
    if isinstance(raw, tuple) and len(raw) == 2:
        name, value = as_text(raw[0]), _variable_text(raw[1])
    else:
        name, equals, value = as_text(raw).partition("=")
        if not equals:
            raise Refused
    if not name or "=" in name:
        raise Refused
    return name, value


def _variable_text(raw: Any) -> str:
    if isinstance(raw, bool):
        raise Refused("is a boolean", 'Give the text that is meant, such as "1"')
    return as_text(raw)


def last_of_each(pairs: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """`pairs` with one a name: the place of the first, the value of the last."""
    return tuple(dict(pairs).items())


def format_variables(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Each as `K=V`."""
    return [f"{name}={value}" for name, value in pairs]


def device_rate(raw: Any) -> tuple[str, int]:
    """A file or block device and bytes a second, from `PATH BYTES` or a pair."""
    place, rate = raw if isinstance(raw, tuple) and len(raw) == 2 else _rate_fields(as_text(raw))
    simple = path(as_text(place))
    if not simple.isprintable():
        raise Refused("is a path that D-Bus can't carry", "Use a path in printable UTF-8")
    return simple, positive(or_infinity(decimal_size)(as_text(rate)))


def _rate_fields(text: str) -> tuple[str, str]:
    place, blank, rate = text.strip(WHITESPACE).rpartition(" ")
    if not blank:
        raise Refused
    return place.rstrip(WHITESPACE), rate


def split_device_rates(text: str) -> list[tuple[str, str]]:
    """One pair a line, the path quoted as systemd has it."""
    return [_quoted_rate(line) for line in split_lines(text)]


def _quoted_rate(line: str) -> tuple[str, str]:
    words = split_words(line, literal_escape)
    if len(words) < 2:
        raise Refused
    return words[0], " ".join(words[1:])


def format_device_rates(pairs: Iterable[tuple[str, int]]) -> list[str]:
    """Each as `PATH BYTES`."""
    return [f"{place} {format_decimal_size(rate)}" for place, rate in pairs]


def quote_device_rate(item: str) -> str:
    """`PATH BYTES` with the path quoted as systemd has it."""
    place, rate = _rate_fields(item)
    return f"{quote_literal(place)} {rate}"


def split_lines(text: str) -> list[str]:
    """What is assigned at once, each on a line."""
    return [line for line in text.split("\n") if line.strip(WHITESPACE)]


def split_cpus(text: str) -> list[str]:
    """The items of a list separated by blanks or commas."""
    return text.replace(",", " ").split()


def bitmask(cpus: Iterable[int]) -> bytes:
    """CPUs as systemd's D-Bus has them: bit i % 8 of byte i / 8."""
    mask = sum(1 << cpu for cpu in cpus)
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def flag_of(words: Mapping[str, bool], text: str) -> bool:
    """What `text` stands for among `words`."""
    if text not in words:
        raise Refused("is none of them", "Give " + " or ".join(words))
    return words[text]
