"""The syntaxes of directives about its processes."""

from __future__ import annotations

from sdbox.syntax import NUMBER_OR_TEXT, TEXT, ListSyntax, Syntax, list_schema
from sdbox.values import names, quantities, quoting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


SIGNAL = Syntax(
    word="SIGNAL",
    noun="a signal",
    hint="Give a name such as SIGTERM or RTMIN+3, or a number from 1 to 64",
    parse=names.signal_number,
    format=names.format_signal,
    schema={"type": ["integer", "string"], "minimum": 1, "maximum": 64},
)

DIRECTORY = Syntax(
    word="DIR",
    noun="a directory",
    hint="Give an absolute path or ~, with a - in front where it may be missing",
    parse=names.working_directory,
    schema=TEXT | {"pattern": "^-?(/|~$)"},
)

ACCOUNT = Syntax(
    word="NAME",
    noun="a user's or group's name or number",
    hint="Give a name as the system knows it, or a number",
    parse=names.user_name,
    schema=NUMBER_OR_TEXT,
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

VARIABLES = ListSyntax(
    word="NAME=VALUE",
    noun="a variable",
    hint="Give NAME=VALUE",
    split=lambda text: quoting.split_words(text, quoting.c_escape),
    item=names.variable,
    fold=names.last_of_each,
    unfold=names.format_variables,
    join=lambda items: " ".join(map(quoting.quote_c, items)),
    schema=list_schema({"type": "string"}, "object"),
)
