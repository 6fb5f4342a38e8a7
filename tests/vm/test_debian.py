"""Where another suite is to be had, by what this machine's apt has of its own."""

from __future__ import annotations

import pytest

from .debian import translated

URI = "http://archive.example/debian/"


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (("Debian", "bookworm", "main"), f"deb {URI} trixie main"),
        (("Debian", "stable", "main"), f"deb {URI} trixie main"),
        (("Debian", "bookworm-updates", "main"), f"deb {URI} trixie-updates main"),
        (("Debian", "bookworm-security", "main"), f"deb {URI} trixie-security main"),
        (("Debian", "bookworm-backports", "main"), ""),
        (("Debian", "bookworm", "contrib"), ""),
        (("Ubuntu", "noble", "main"), ""),
        # Before apt has ever asked the archive, it does not know whose it is.
        (("$(ORIGIN)", "bookworm", "main"), ""),
    ],
)
def test_translated(target: tuple[str, str, str], line: str) -> None:
    assert translated("trixie", *target, URI) == line
