"""The tests in parts: each test is in one."""

from __future__ import annotations

from tests.parts import part_of

NAMES = [f"tests/test_it.py::test_{what}[{kind}]" for what in range(500) for kind in "ab"]


def test_each_is_in_one_and_none_is_left_out() -> None:
    parts = [part_of(name, 3) for name in NAMES]
    assert set(parts) == {1, 2, 3}
    assert all(270 < parts.count(number) < 400 for number in (1, 2, 3))


def test_both_kinds_are_in_each() -> None:
    first = [name[-2] for name in NAMES if part_of(name, 2) == 1]
    assert 0.4 < first.count("a") / len(first) < 0.6
