"""The end of a helper, whose supervisor is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sdbox.init import cleanup
from sdbox.init.helper import Helper


def test_a_box_that_can_not_be_ended_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []

    def child(cgroup: int) -> Any:
        return SimpleNamespace(
            cgroup=cgroup, pidfd=-1, directories={}, let_go=lambda: ended.append(cgroup)
        )

    def kill(cgroup: int, *_: float) -> None:
        if cgroup == 1:
            raise OSError("no")

    def empty(cgroup: int, _: float) -> bool:
        if cgroup == 2:
            raise OSError("nor this")
        return True

    monkeypatch.setattr(cleanup, "kill", kill)
    monkeypatch.setattr(cleanup, "empty", empty)
    helper = Helper.__new__(Helper)
    helper.spare = None
    helper.children = {b"%d" % number: child(number) for number in (1, 2, 3)}
    with pytest.raises(OSError, match="no"):
        helper._end_all()
    assert ended == [1, 3]
