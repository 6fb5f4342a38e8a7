"""`--part 1/2`: the tests in parts of about the same size, for as many machines."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", default="1/1", metavar="N/PARTS", help="one part of the tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, parts = map(int, config.getoption("--part").split("/"))
    others = [item for item in items if part_of(item.nodeid, parts) != number]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if part_of(item.nodeid, parts) == number]


def part_of(name: str, parts: int) -> int:
    """Return the number of a test's part: by its name, so that each has some of every module."""
    return crc32(name.encode()) % parts + 1
