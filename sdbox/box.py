"""`Box`: the specification of a job's limits and isolation."""

from __future__ import annotations

from types import MappingProxyType

from sdbox.directives import DIRECTIVES, OPTIONS, find, option_value
from sdbox.errors import InvalidDirective
from sdbox.syntax import ListSyntax
from sdbox.values import INFINITY, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from sdbox.directives import Directive


class Box:
    """Directives and their values; immutable. `Box(MemoryMax="512M", PrivateTmp=True)`.

    Values are text in systemd's syntax or natural Python types. An empty text, list or mapping
    for a directive that accumulates empties it, also of what a lower layer says (`merge`).
    Raises InvalidDirective for names and values that there are not.
    """

    __slots__ = ("directives", "resets")

    directives: Mapping[str, Any]
    """The parsed values, in the table's order."""
    resets: frozenset[str]
    """The directives that this box empties of what a lower layer says."""

    def __init__(self, **directives: object) -> None:
        values, resets = _read((find(name), raw, name) for name, raw in directives.items())
        self._fill(values, resets)

    def _fill(self, values: Mapping[str, Any], resets: Iterable[str]) -> None:
        ordered = {name: values[name] for name in DIRECTIVES if name in values}
        object.__setattr__(self, "directives", MappingProxyType(ordered))
        object.__setattr__(self, "resets", frozenset(resets))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Box does not change; merge it with another to set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Box does not change: {name} stays")

    @classmethod
    def _of(cls, values: Mapping[str, Any], resets: Iterable[str]) -> Box:
        box = cls.__new__(cls)
        box._fill(values, resets)
        return box

    @classmethod
    def from_mapping(cls, directives: Mapping[str, object]) -> Box:
        """The box that `directives` describe, for names that come from outside."""
        return cls._of(*_read((find(name), raw, name) for name, raw in directives.items()))

    @classmethod
    def from_assignment(cls, assignment: str) -> Box:
        """The box of one `Name=value` in systemd's syntax."""
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InvalidDirective(
                f"{shown(assignment)} is not an assignment", hint="Give a directive as Name=value"
            )
        return cls._of(*_read([(find(name), text, name)]))

    @classmethod
    def from_option(cls, flag: str, raw: str, environment: Mapping[str, str]) -> Box:
        """The box of one command-line option; `environment` is the caller's."""
        row = OPTIONS[flag]
        also = row.option.also if row.option else {}
        others = [(DIRECTIVES[name], value, flag) for name, value in also.items()]
        raw_value = option_value(flag, raw, environment)
        return cls._of(*_read([*others, (row, raw_value, flag)]))

    @classmethod
    def from_json(cls, document: object) -> Box:
        """The box that `to_json` described. Raises InvalidDirective."""
        if not isinstance(document, dict):
            raise InvalidDirective(
                f"{shown(document)} is not a box", hint="Give an object of directives"
            )
        return cls.from_mapping(document)

    def merge(self, over: Box) -> Box:
        """This box with `over` on top: its values win, and what accumulates is appended."""
        values = {name: v for name, v in self.directives.items() if name not in over.resets}
        for name, value in over.directives.items():
            values[name] = _assigned(DIRECTIVES[name], values, value)
        return Box._of(values, self.resets | over.resets)

    def with_defaults(self) -> Box:
        """This box with what follows from it: no swap where memory is limited.

        Without it MemoryMax would only move a job's memory to the swap device.
        """
        if self.directives.get("MemoryMax", INFINITY) == INFINITY:
            return self
        return Box(MemorySwapMax=0).merge(self)

    def resolve(self, totals: Mapping[str, int]) -> Box:
        """This box with its percentages made numbers: see Directive.resolve."""
        resolved = {n: DIRECTIVES[n].resolve(v, totals) for n, v in self.directives.items()}
        return Box._of(resolved, self.resets)

    def to_json(self) -> dict[str, str | list[str]]:
        """Text for each directive, in systemd's syntax; lists item by item.

        A first item that is empty says that the box resets the directive.
        """
        document = {n: DIRECTIVES[n].syntax.to_json(v) for n, v in self.directives.items()}
        for name in filter(self.resets.__contains__, DIRECTIVES):
            document[name] = ["", *document.get(name, ())]
        return document

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """JSON schema (2020-12) of what describes a box."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Box",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                row.name: {"description": row.help, **row.syntax.schema}
                for row in DIRECTIVES.values()
            },
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Box):
            return NotImplemented
        return self.directives == other.directives and self.resets == other.resets

    def __hash__(self) -> int:
        return hash((tuple(self.directives.items()), self.resets))

    def __repr__(self) -> str:
        return f"Box({', '.join(f'{name}={text!r}' for name, text in self.to_json().items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Box.from_json, (self.to_json(),)


def _read(rows: Iterable[tuple[Directive, object, str]]) -> tuple[dict[str, Any], set[str]]:
    """Values and resets of assignments, each a directive, what is assigned, and where it was."""
    values: dict[str, Any] = {}
    resets: set[str] = set()
    for directive, raw, where in rows:
        syntax = directive.syntax
        if not isinstance(syntax, ListSyntax):
            values[directive.name] = syntax.read(raw, where)
            continue
        items = syntax.items(raw, where)
        if "" in items:
            resets.update(directive.resets)
            items = items[len(items) - items[::-1].index("") :]
        if items:
            values[directive.name] = syntax.read_items(items, where)
    return values, resets


def _assigned(directive: Directive, values: Mapping[str, Any], value: Any) -> Any:
    if directive.name not in values or not isinstance(directive.syntax, ListSyntax):
        return value
    return directive.syntax.append(values[directive.name], value)
