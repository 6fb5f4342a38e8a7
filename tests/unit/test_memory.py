"""The memory of a process, as far as this process may know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdbox.usage import memory


@pytest.mark.parametrize("measure", [memory.own_memory, memory._resident])
def test_a_process_that_is_gone_has_none(measure: object) -> None:
    assert callable(measure)
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert measure(done.pid) is None


def test_of_a_process_that_is_anothers_what_anybody_may_know() -> None:
    size = os.sysconf("SC_PAGE_SIZE")
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    assert memory._resident(os.getpid()) == pytest.approx((resident - shared) * size, rel=0.1)
