"""The supervisor's end of init's messages."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sdbox.errors import LaunchFailed
from sdbox.launch.report import Report
from tests.pace import seconds


async def test_an_init_that_ends_without_a_word() -> None:
    ours, init = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    report = Report(ours, service=False)
    try:
        init.close()
        with pytest.raises(LaunchFailed, match="killed before it started") as caught:
            await asyncio.wait_for(report.started, seconds(20))
        assert caught.value.hint
        assert await report.ended is None
    finally:
        report.close()
