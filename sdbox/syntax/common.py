"""Syntaxes of directives of several sections."""

from __future__ import annotations

from sdbox.syntax import NUMBER_OR_TEXT, Syntax
from sdbox.values import names, quantities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SPAN = Syntax(
    word="TIME",
    noun="a span of time",
    hint="Give seconds, or units as in 1h 30min, or infinity",
    parse=quantities.positive_span,
    schema={"type": ["number", "string"], "exclusiveMinimum": 0, "minLength": 1},
)

BOOLEAN = Syntax(
    word="BOOL",
    noun="yes or no",
    hint="Give yes or no",
    parse=names.boolean,
    schema={"type": ["boolean", "string"]},
)

MORE_HINT = "Give more than 0"


def sizes(parse: Callable[[str], Any], hint: str) -> Syntax:
    """The syntax of a size that `parse` reads."""
    return Syntax(
        word="BYTES",
        noun="a size",
        hint=hint,
        parse=parse,
        format=quantities.format_size,
        schema=NUMBER_OR_TEXT,
    )
