"""The syntaxes of directives: each reads a value, writes it, and describes itself.

A syntax has one job: to turn what a caller gave into the typed value, or into one clear line of
complaint. Scalars are Syntax; what is assigned item by item is ListSyntax.
"""

from __future__ import annotations

from sdbox.errors import InvalidDirective
from sdbox.record import record
from sdbox.values import WHITESPACE, Refused, as_text, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

TEXT = {"type": "string", "minLength": 1}
NUMBER_OR_TEXT = {"type": ["integer", "string"], "minimum": 0, "minLength": 1}


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


def list_schema(items: Mapping[str, Any], *others: str) -> dict[str, Any]:
    """The JSON schema of what a ListSyntax takes; `others` are natural types beside an array."""
    return {"type": ["string", "array", *others], "items": items}
