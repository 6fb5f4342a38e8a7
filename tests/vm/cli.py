"""tests/vm/run: builds the image, boots it as one of the tiers, brings back what came of it."""

from __future__ import annotations

import argparse
import sys
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.errors import SdboxError

from . import debian, image, order, qemu, report
from .errors import TierFailed
from .lab import Lab
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Boot = Callable[[Path, Path, Terminal, float], None]

RESULTS_BYTES = 64 << 20
SECONDS = {"lab": 900.0, "vm": 5400.0}
"""How long a machine may run, from power on to off."""

# What each tier is for (`pytest`'s arguments): the lab's kernel is this machine's.
SUITES = {
    "lab": ("tests/integration",),
    "vm": ("tests/integration", "tests/vm/limits"),
}
# Emulation is some ten times slower than what the tests' own time-outs were chosen for.
PYTEST_OPTIONS = {"lab": (), "vm": ("--override-ini=timeout=900",)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except SdboxError as error:
        print(f"tests/vm/run: {error}", file=sys.stderr)
        return 125
