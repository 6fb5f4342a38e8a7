"""The way to a manager that is begun before it is needed, on either event loop."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from sdbox import loop
from sdbox.errors import ManagerUnavailable
from sdbox.launch.dialler import Dialler, connect
from sdbox.launch.helper import Helper
from sdbox.record import replaced
from sdbox.systemd.endpoint import locate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sdbox.systemd.endpoint import Endpoint
    from tests.conftest import Site

    Run = Callable[[Awaitable[None]], None]


@pytest.fixture
def endpoint(job_site: Site) -> Iterator[Endpoint]:
    endpoint = locate("auto", notice=print)
    yield endpoint
    endpoint.close()


@pytest.fixture(params=[asyncio.run, loop.run], ids=["asyncio", "small loop"])
def run(request: pytest.FixtureRequest) -> Run:
    which: Run = request.param
    return which


def dialler_to(endpoint: Endpoint) -> Dialler:
    helper = Helper.spawn(pid_namespace=endpoint.pid_namespace, cgroup=endpoint.launch_cgroup)
    helper.attach()
    return Dialler(endpoint, helper)


def test_the_first_connection_is_begun_ahead_and_used_once(endpoint: Endpoint, run: Run) -> None:
    async def connected() -> None:
        dialler = dialler_to(endpoint)
        dialler.begin()
        connection = await connect(dialler)
        other = await dialler.dial()
        assert connection.manager.version > 0
        assert not other.closed.done()
        await other.close()
        await dialler.close()
        assert await connection.manager.exists("-.slice"), "closing it closed what was in use"
        await connection.close()

    before = os.listdir("/proc/self/fd")
    run(connected())
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("turns", [0, 1, 1000])
def test_what_was_begun_for_nothing_is_let_go(endpoint: Endpoint, run: Run, turns: int) -> None:
    async def begun() -> None:
        dialler = dialler_to(endpoint)
        dialler.begin()
        for _ in range(turns):
            await loop.turn()
        await dialler.close()
        await dialler.helper.close()

    before = os.listdir("/proc/self/fd")
    run(begun())
    assert os.listdir("/proc/self/fd") == before


def test_a_bus_that_is_not_there_is_told_to_who_needs_it(endpoint: Endpoint, run: Run) -> None:
    async def needed() -> None:
        dialler = dialler_to(replaced(endpoint, bus_socket="/nonexistent/bus"))
        dialler.begin()
        with pytest.raises(ManagerUnavailable, match="/nonexistent/bus: No such file"):
            await connect(dialler)
        await dialler.close()
        await dialler.helper.close()

    run(needed())
