"""`@record`: what `@dataclass(frozen=True, kw_only=True, slots=True)` is, without its cost.

The dataclasses module imports inspect and compiles several methods for every class, which for
the table of directives alone is a tenth of a whole launch. Type checkers see a dataclass.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform

    T = TypeVar("T")


class _Record:
    __slots__ = ()
    _defaults: dict[str, Any] = {}  # noqa: RUF012 - no class variable of the records themselves

    def __init__(self, **values: Any) -> None:
        given = self._defaults | values
        names = _names(self)
        if given.keys() != set(names):
            wrong = ", ".join(sorted(given.keys() ^ set(names)))
            raise TypeError(f"{type(self).__name__}() is missing, or does not take: {wrong}")
        for name in names:
            object.__setattr__(self, name, given[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} does not change: {name}")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _values(self) == _values(other)

    def __hash__(self) -> int:
        return hash(_values(self))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in _names(self))
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), values_of(self))


def values_of(instance: object) -> dict[str, Any]:
    """A record's values by their names."""
    return dict(zip(_names(instance), _values(instance), strict=True))


def replaced(instance: T, **changes: Any) -> T:
    """A record like this one but for `changes`."""
    return type(instance)(**(values_of(instance) | changes))


def _names(instance: object) -> tuple[str, ...]:
    slots: tuple[str, ...] = type(instance).__slots__  # type: ignore[attr-defined]
    return slots


def _values(instance: object) -> tuple[Any, ...]:
    return tuple(getattr(instance, name) for name in _names(instance))


def _remake(cls: type[T], values: dict[str, Any]) -> T:
    return cls(**values)


def _record(cls: type[T]) -> type[T]:
    names = tuple(cls.__annotations__)
    body = {name: value for name, value in vars(cls).items() if name not in names}
    defaults = {name: value for name, value in vars(cls).items() if name in names}
    for left_over in ("__dict__", "__weakref__"):
        body.pop(left_over, None)
    # Slots can't be added to a class that is there, so it is made anew.
    made: Any = type(cls.__name__, (_Record,), body | {"__slots__": names, "_defaults": defaults})
    return made  # type: ignore[no-any-return]


if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    def record(cls: type[T]) -> type[T]:
        """Make a class of annotated fields a frozen, keyword-only record."""
        return _record(cls)

else:
    record = _record
