"""Parsers of quantities: sizes, spans of time, shares, counts and resource limits.

Each takes text and gives a value, or raises Refused. The syntax is systemd's: systemd.time(7),
systemd.resource-control(5), and for the limits systemd.exec(5).
"""

from __future__ import annotations

from sdbox.values import INFINITY, WHITESPACE, Percent, Refused, ResourceLimit, Usec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_DIGITS = "0123456789"

_SIZE_LETTERS = ("", "K", "M", "G", "T", "P", "E")
_BINARY = {letter: 1024**power for power, letter in enumerate(_SIZE_LETTERS)} | {"B": 1}
_DECIMAL = {letter: 1000**power for power, letter in enumerate(_SIZE_LETTERS)} | {"B": 1}

# Months are 30.44 days and years 365.25 (systemd.time(7)); in microseconds.
_SPANS = {
    name: length
    for names, length in (
        ("us usec µs μs", 1),
        ("ms msec", 1_000),
        ("s sec second seconds", 1_000_000),
        ("m min minute minutes", 60_000_000),
        ("h hr hour hours", 3_600_000_000),
        ("d day days", 86_400_000_000),
        ("w week weeks", 604_800_000_000),
        ("M month months", 2_629_800_000_000),
        ("y year years", 31_557_600_000_000),
    )
    for name in names.split()
}


def count(text: str) -> int:
    """A whole number below 2^64 - 1, in decimal digits."""
    digits = text.strip(WHITESPACE)
    if not digits or digits.strip(_DIGITS):
        raise Refused
    _check_decimal(digits)
    if len(digits) > 20 or int(digits) >= INFINITY:
        raise _too_large()
    return int(digits)


def _check_decimal(digits: str) -> None:
    if digits[0] == "0" and digits != "0":
        raise Refused("begins with a 0", "Leave the 0 out: systemd would take it for octal")


def _too_large() -> Refused:
    return Refused("is too large", "Give less than 2^64, or infinity for no limit")


def or_infinity(parse: Callable[[str], int]) -> Callable[[str], int]:
    """`parse`, or `infinity`."""
    return lambda text: INFINITY if text.strip(WHITESPACE) == "infinity" else parse(text)


def or_percent(parse: Callable[[str], int]) -> Callable[[str], int | Percent]:
    """`parse`, or a share from above 0 % to 100 %, kept as Percent."""

    def parser(text: str) -> int | Percent:
        return _share(text) if text.rstrip(WHITESPACE).endswith("%") else parse(text)

    return parser


def _share(text: str) -> Percent:
    share = percent(text)
    if share.permyriad > 10_000:
        raise Refused("is more than there is", "Give at most 100%")
    return share


def percent(text: str) -> Percent:
    """A percentage above 0 with at most two decimals; may be above 100%."""
    number, sign, rest = text.strip(WHITESPACE).partition("%")
    whole, point, decimals = number.partition(".")
    if not sign or rest or not whole or (point and not decimals):
        raise Refused
    if (whole + decimals).strip(_DIGITS) or len(decimals) > 2:
        raise Refused
    _check_decimal(whole)
    # The limit is systemd's: it keeps hundredths of a percent in an int.
    if len(whole) > 8 or int(whole + decimals.ljust(2, "0")) >= 2**31:
        raise Refused("is too large", "Give at most 20000000%")
    permyriad = int(whole + decimals.ljust(2, "0"))
    return Percent(permyriad=positive(permyriad))


def positive(number: int) -> int:
    """`number`, which may not be 0."""
    if number == 0:
        raise Refused("leaves a job nothing to run with", "Give more than 0")
    return number


def at_least(least: int, parse: Callable[[str], int], hint: str) -> Callable[[str], int]:
    """`parse`, refusing what is below `least` with `hint`."""

    def parser(text: str) -> int:
        value = positive(parse(text))
        if value < least:
            raise Refused("is too small", hint)
        return value

    return parser


def size(text: str) -> int:
    """Bytes: `512M`, `1.5G`, `3G 512K`; suffixes to the base 1024."""
    return _size(text, _BINARY)


def decimal_size(text: str) -> int:
    """Bytes with suffixes to the base 1000, as systemd has it for bandwidths."""
    return _size(text, _DECIMAL)


def _size(text: str, factors: Mapping[str, int]) -> int:
    total, last = 0, INFINITY
    for whole, fraction, unit in _terms(text):
        # Suffixes go down: `1G 512M` is a size, `512M 1G` a mistake.
        factor = factors.get(unit, INFINITY)
        if factor >= last or not whole:
            raise Refused
        total += _scaled(whole, fraction, factor)
        last = factor
    return _bounded(total)


def span(text: str, *, unit: str = "s") -> Usec:
    """A span of time: `90`, `1.5h`, `1h 30min`; a number alone is in `unit`."""
    if text.strip(WHITESPACE) == "infinity":
        return Usec(INFINITY)
    total = 0
    for whole, fraction, name in _terms(text):
        if (name or unit) not in _SPANS:
            raise Refused
        total += _scaled(whole, fraction, _SPANS[name or unit])
    return Usec(_bounded(total))


def positive_span(text: str) -> Usec:
    """A span of time above 0. systemd takes 0 as no limit, which nobody means who writes it."""
    usec = span(text)
    if usec == 0:
        raise Refused("is no time at all", "Give more than 0, or infinity for no limit")
    return usec


def _bounded(total: int) -> int:
    if total >= INFINITY:
        raise _too_large()
    return total


def _scaled(whole: str, fraction: str, factor: int) -> int:
    """`whole.fraction` times `factor`, rounded down."""
    if len(whole.lstrip("0")) > 20:
        raise _too_large()
    fraction = fraction[:20]
    scale: int = 10 ** len(fraction)
    return int(whole or "0") * factor + int(fraction or "0") * factor // scale


def _terms(text: str) -> list[tuple[str, str, str]]:
    """The terms of a sum, as (digits before the point, digits after it, unit)."""
    terms = []
    at = _skip(text, 0, WHITESPACE)
    while at < len(text):
        term, at = _term(text, at)
        terms.append(term)
    if not terms:
        raise Refused
    return terms


def _term(text: str, start: int) -> tuple[tuple[str, str, str], int]:
    point = _skip(text, start, _DIGITS)
    end = _skip(text, point + 1, _DIGITS) if text[point : point + 1] == "." else point
    whole, fraction = text[start:point], text[point + 1 : end]
    at = _skip(text, end, WHITESPACE)
    unit_end = at
    while unit_end < len(text) and text[unit_end] not in _DIGITS + WHITESPACE + ".":
        unit_end += 1
    after = _skip(text, unit_end, WHITESPACE)
    # `12.34.56` is a slip of the finger, and `1.` and `.` are not numbers.
    if (end > point and not fraction) or end == start or after == end < len(text):
        raise Refused
    return (whole, fraction, text[at:unit_end]), after


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def resource_limit(parse: Callable[[str], int]) -> Callable[[str], ResourceLimit]:
    """`LIMIT` or `SOFT:HARD`, each read by `parse`."""

    def parser(text: str) -> ResourceLimit:
        soft_text, colon, hard_text = text.partition(":")
        soft = parse(soft_text)
        hard = parse(hard_text) if colon else soft
        if soft > hard:
            raise Refused("has a soft limit above the hard one", "Give the smaller one first")
        return ResourceLimit(soft=soft, hard=hard)

    return parser


def cpu_seconds(text: str) -> int:
    """A span of time in whole seconds, rounded up: LimitCPU."""
    usec = int(span(text))
    return usec if usec == INFINITY else -(-usec // 1_000_000)


def microseconds(text: str) -> int:
    """A span of time in microseconds; a number alone is that many: LimitRTTIME."""
    return int(span(text, unit="us"))


def nice_limit(text: str) -> int:
    """RLIMIT_NICE, 0 to 40; with a sign it is the nice value that it allows, -20 to +19."""
    sign, digits = text[:1], text[1:]
    if sign == "+" and count(digits) <= 19:
        return 20 - count(digits)
    if sign == "-" and count(digits) <= 20:
        return 20 + count(digits)
    if sign in ("+", "-") or count(text) > 40:
        raise Refused
    return count(text)


def format_size(value: int | Percent) -> str:
    """A size or Percent, with the largest suffix of base 1024 that says it exactly."""
    return _format_size(value, 1024)


def format_decimal_size(value: int) -> str:
    """A size with the largest suffix of base 1000 that says it exactly."""
    return _format_size(value, 1000)


def _format_size(value: int | Percent, base: int) -> str:
    if not isinstance(value, int) or value == INFINITY:
        return "infinity" if value == INFINITY else str(value)
    power = 0
    while value and value % base == 0 and power < len(_SIZE_LETTERS) - 1:
        value //= base
        power += 1
    return f"{value}{_SIZE_LETTERS[power]}"
