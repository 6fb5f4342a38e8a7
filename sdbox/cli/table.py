"""What the management verbs print: columns, colours, and figures as people read them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sdbox.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN = "-"
_PLAIN = "\x1b[0m"
_COLOURS = {
    "running": "\x1b[32m",
    "frozen": "\x1b[36m",
    "frozen-by-parent": "\x1b[36m",
    "freezing": "\x1b[33m",
    "freezing-by-parent": "\x1b[33m",
    "thawing": "\x1b[33m",
    "stopping": "\x1b[33m",
    "failed": "\x1b[31m",
}
_SIZES = ("B", "K", "M", "G", "T", "P")
_SPANS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, legend: bool) -> None:
    """Print rows in columns: on a terminal with a header if `legend`, and cut at its edge."""
    terminal = sys.stdout.isatty()
    shown = [header, *rows] if legend and terminal else rows
    for line in lines(shown, columns=os.get_terminal_size(1).columns if terminal else None):
        print(coloured(line))


def lines(rows: Sequence[Sequence[str]], *, columns: int | None) -> list[str]:
    """Return rows as lines. All columns but the last are as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return [_cut(_line(row, widths), columns) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
    return "  ".join((*padded, row[-1])).rstrip()


def _cut(line: str, columns: int | None) -> str:
    # A terminal need not have a width.
    return line if not columns or len(line) <= columns else f"{line[: columns - 1]}…"


def coloured(line: str) -> str:
    """Return a line of a table with the state, its second word, coloured."""
    words = line.split(maxsplit=2)
    if len(words) < 2:
        return line
    # The job's id is first, and may be a word like it.
    start = line.index(words[1], len(words[0]))
    return f"{line[:start]}{painted(words[1])}{line[start + len(words[1]) :]}"


def painted(state: str) -> str:
    """Return a state in its colour, on a terminal whose user wants colours."""
    colour = _COLOURS.get(state)
    return state if colour is None else in_colour(state, colour)


def in_colour(text: str, colour: str) -> str:
    """Return a text in a colour, on a terminal whose user wants colours."""
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"{colour}{text}{_PLAIN}"


def size(number: float | None) -> str:
    """Bytes, with one digit after the point where that says something."""
    if number is None:
        return UNKNOWN
    power = 0
    while number >= 1024 and power < len(_SIZES) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f}{_SIZES[power]}" if power else f"{number:.0f}B"


def seconds(number: float | None) -> str:
    """CPU time."""
    if number is None:
        return UNKNOWN
    return f"{number:.2f}s" if number < 60 else span(number)


def span(number: float | None) -> str:
    """A span of time in its two largest units."""
    if number is None:
        return UNKNOWN
    left = max(int(number), 0)
    terms: list[str] = []
    for unit, length in _SPANS:
        count, left = divmod(left, length)
        if count or (terms and unit != "s"):
            terms.append(f"{count}{unit}")
        if len(terms) == 2:
            break
    return " ".join(term for term in terms if not term.startswith("0")) or "0s"


def count(number: float | None) -> str:
    """A number, or that it is not known."""
    return UNKNOWN if number is None else f"{number:g}"


def command_line(words: Sequence[str]) -> str:
    """A command as a shell would take it, on one line and without what moves a cursor."""
    import shlex

    return one_line(shlex.join(words))
