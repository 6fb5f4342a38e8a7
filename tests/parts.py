"""`--part 1/2`: the tests in parts of about the same size, for as many machines."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="1/1", metavar="N/PARTS", help="one part of the modules")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, parts = map(int, config.getoption("--part").split("/"))
    mine = divided(Counter(item.path for item in items), parts)[number - 1]
    config.hook.pytest_deselected(items=[item for item in items if item.path not in mine])
    items[:] = [item for item in items if item.path in mine]


def divided(sizes: Counter[Path], parts: int) -> list[set[Path]]:
    """Divide modules by their numbers of tests: the largest first, each to the smallest part."""
    divisions: list[set[Path]] = [set() for _ in range(parts)]
    for path, _ in sizes.most_common():
        min(divisions, key=lambda division: sum(sizes[one] for one in division)).add(path)
    return divisions
