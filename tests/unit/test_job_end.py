"""A job that has to end, and a manager that does not come to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sdbox import loop
from sdbox.errors import ManagerUnavailable, SdboxError, TimedOut
from sdbox.job import Job


@pytest.mark.parametrize("error", [TimedOut("busy"), ManagerUnavailable("gone")])
def test_what_is_not_stopped_is_killed(error: SdboxError) -> None:
    done = []

    async def stop(unit: str, *, timeout: float) -> None:
        raise error

    async def destroy() -> None:
        done.append("killed")

    job: Any = Job.__new__(Job)
    job.plan = SimpleNamespace(whole="x.scope", stop_seconds=1.0)
    job._manager = SimpleNamespace(stop=stop)
    job._destroy = destroy
    loop.run(job._stop())
    assert done == ["killed"]
