"""What is expensive to make and depends on its recipe alone, kept by the recipe's hash."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Of each kind as many are kept, and whatever a tier may still be running from.
KEEP = 3
KEEP_SECONDS = 6 * 3600.0
_BUILDING = ".building-"


def directory() -> Path:
    """Return what is ours of the user's cache directory; nothing is kept in the checkout."""
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(above, "sdbox")


def key(*ingredients: object) -> str:
    """Return a name for what is made of these."""
    text = json.dumps(ingredients, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def entry(name: str, build: Callable[[Path], None]) -> Path:
    """Return what is kept under `name`; `build` makes it, if need be, at the path it is given.

    It appears whole or not at all, and one caller builds while the others wait for it.
    """
    place = directory() / "images" / name
    with alone("images"):
        place.parent.mkdir(exist_ok=True)
        _prune(place.parent)
        if not place.exists():
            unfinished = place.with_name(_BUILDING + name)
            build(unfinished)
            unfinished.rename(place)
        os.utime(place)
    return place


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Wait until nobody else does what goes by that name."""
    directory().mkdir(parents=True, exist_ok=True)
    with (directory() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _prune(parent: Path) -> None:
    """Remove what was not finished (nobody else builds now), and what is not used any more."""
    latest = sorted(parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    kept: Counter[str] = Counter()
    for path in latest:
        kind = path.name.partition("-")[0]
        kept[kind] += 1
        old = path.stat().st_mtime < time.time() - KEEP_SECONDS
        if path.name.startswith(_BUILDING) or (old and kept[kind] > KEEP):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
