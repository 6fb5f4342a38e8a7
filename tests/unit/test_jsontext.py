from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.management.jsontext import encode

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Surrogates, too: bytes that are not UTF-8.
    | st.text(st.characters(codec=None))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
    max_leaves=20,
)


@given(VALUES)
def test_the_json_module_reads_it_back(value: Any) -> None:
    text = encode(value)
    assert json.loads(text) == _paired(value)
    assert text.isascii()
    assert text.isprintable()


def _paired(value: Any) -> Any:
    """Two surrogates that make a pair are one character to JSON: as the json module has it."""
    return json.loads(json.dumps(value))


def test_bytes_that_are_not_utf_8_come_back() -> None:
    assert json.loads(encode("\udcff")) == "\udcff"


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_in_json_is_null(number: float) -> None:
    assert encode([number]) == "[null]"


def test_enumerations_are_their_numbers() -> None:
    assert encode({"signal": signal.SIGKILL, "tuple": (1, True)}) == '{"signal":9,"tuple":[1,true]}'
