"""The directory for the way out of nestable boxes: made with the first, removed with the last."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from typing import TYPE_CHECKING

import pytest

from sdbox.init import nest
from sdbox.init.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 300


def test_it_goes_with_the_last_who_holds_it(tmp_path: Path) -> None:
    place = tmp_path / "door"
    first, second = nest.reserve(str(place)), nest.reserve(str(place))
    os.close(first)
    nest.remove_unused(str(place))
    assert place.is_dir()
    os.close(second)
    nest.remove_unused(str(place))
    assert not place.exists()
    nest.remove_unused(str(place))


def test_others_can_not_open_it(tmp_path: Path) -> None:
    os.close(nest.reserve(str(tmp_path / "door")))
    mode = (tmp_path / "door").stat().st_mode & 0o777
    assert mode == (0 if os.geteuid() == 0 else 0o700)


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "door").symlink_to(tmp_path)
    with pytest.raises(StepError):
        nest.reserve(str(tmp_path / "door"))
    nest.remove_unused(str(tmp_path / "door"))
    assert (tmp_path / "door").is_symlink()


def test_who_waits_for_a_lock_does_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nest, "_LOCK_SECONDS", 0.05)
    os.mkdir(tmp_path / "door")
    fd = os.open(tmp_path / "door", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(StepError, match="110"):
        nest.reserve(str(tmp_path / "door"))
    assert os.listdir("/proc/self/fd") == before, "a helper has one less for each box refused"
    os.close(fd)


def _come_and_go(place: str, missing: int) -> None:
    for _ in range(ROUNDS):
        fd = nest.reserve(place)
        if not os.path.exists(place) or not os.path.samestat(os.fstat(fd), os.stat(place)):
            os.write(missing, b"x")
        os.close(fd)
        nest.remove_unused(place)


def test_nobody_who_holds_it_loses_it(tmp_path: Path) -> None:
    place = str(tmp_path / "door")
    reader, writer = os.pipe()
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_come_and_go, args=(place, writer)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    os.close(writer)
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert not os.path.exists(place)
