from __future__ import annotations

import copy
import pickle

import pytest

from sdbox.values import Bind, Percent


def test_a_record_is_frozen_and_has_slots() -> None:
    bind = Bind(source="/a", destination="/b")
    with pytest.raises(AttributeError):
        bind.source = "/c"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del bind.source
    assert not hasattr(bind, "__dict__")


def test_defaults_equality_hash_and_repr() -> None:
    one = Bind(source="/a", destination="/b")
    other = Bind(source="/a", destination="/b", recursive=True, ignore_missing=False)
    assert one == other
    assert hash(one) == hash(other)
    assert one != Bind(source="/a", destination="/b", recursive=False)
    assert repr(Percent(permyriad=5)) == "Percent(permyriad=5)"


@pytest.mark.parametrize("fields", [{}, {"permyriad": 1, "more": 2}, {"other": 1}])
def test_fields_that_are_missing_or_unknown_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(TypeError, match="Percent"):
        Percent(**fields)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError):
        Percent(1)  # type: ignore[call-arg]


def test_copies_and_pickles_are_equal() -> None:
    bind = Bind(source="/a", destination="/b", recursive=False)
    assert copy.deepcopy(bind) == bind
    assert pickle.loads(pickle.dumps(bind)) == bind  # noqa: S301 - made here
