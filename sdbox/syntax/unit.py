"""The syntaxes of directives about its unit."""

from __future__ import annotations

from sdbox.syntax import TEXT, Syntax
from sdbox.values import names

SLICE = Syntax(
    word="SLICE",
    noun="the name of a slice",
    hint="Give a unit's name such as batch.slice or batch-night.slice",
    parse=names.slice_name,
    schema=TEXT | {"pattern": r"\.slice$"},
)

LINE = Syntax(
    word="TEXT",
    noun="a line of text",
    hint="Give one line of printable text",
    parse=names.one_line,
    schema=TEXT,
)
