"""What is kept appears whole or not at all, is made once, and does not pile up."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

import pytest

from . import cache

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600.0


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sdbox/images"


def make(place: Path) -> None:
    place.write_text("made")


def break_down(place: Path) -> None:
    place.mkdir()
    raise ZeroDivisionError


def test_made_once() -> None:
    place = cache.entry("root-1", make)
    assert (place.name, place.read_text()) == ("root-1", "made")
    assert cache.entry("root-1", break_down) == place


def test_one_at_a_time(kept: Path) -> None:
    with cache.alone("images"), cache.alone("apt"):
        for name in ("images", "apt"):
            with (kept.parent / f"{name}.lock").open("w") as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (kept.parent / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_was_not_finished_is_not_there_and_is_cleared(kept: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cache.entry("root-1", break_down)
    assert not (kept / "root-1").exists()
    assert cache.entry("root-1", make).read_text() == "made"
    assert {path.name for path in kept.iterdir()} == {"root-1"}


def test_only_the_latest_of_a_kind_last(kept: Path) -> None:
    made = [cache.entry(f"root-{number}", make) for number in range(cache.KEEP + 2)]
    disk = cache.entry("disk-1", make)
    for hours, place in enumerate([disk, *reversed(made)], start=10):
        os.utime(place, (0, time.time() - hours * HOUR))
    cache.entry("other-1", make)
    left = {path.name for path in kept.iterdir()}
    assert left == {"other-1", "disk-1", *(place.name for place in made[-cache.KEEP :])}


def test_what_may_be_in_use_lasts(kept: Path) -> None:
    made = {cache.entry(f"root-{number}", make).name for number in range(cache.KEEP + 2)}
    assert {path.name for path in kept.iterdir()} == made


def test_keys_tell_ingredients_apart() -> None:
    keys = {cache.key(*words) for words in (("a", "b"), ("ab",), (["a"], "b"), ("b", "a"))}
    assert len(keys) == 4
    assert cache.key({"x": 1, "y": 2}) == cache.key({"y": 2, "x": 1})
