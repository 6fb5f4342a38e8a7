"""The linters and the type checker: what they find is a failure like any other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent

CHECKS = {
    "ruff": ["ruff", "check"],
    "ruff-format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    # A script without a suffix is in no package.
    "mypy-command": ["mypy", "packaging/sdbox"],
}


# By their first lines.
SCRIPTS = [
    path.relative_to(CHECKOUT)
    for above in (".ci", "packaging", "tests")
    for path in sorted(CHECKOUT.joinpath(above).rglob("*"))
    if path.is_file() and path.read_bytes().startswith((b"#!/bin/sh\n", b"#!/bin/bash\n"))
]


@pytest.mark.timeout(300)  # mypy takes its time where it has no cache yet
@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS)
def test_nothing_to_complain_about(command: list[str]) -> None:
    program, *arguments = command
    done = subprocess.run(
        [BIN / program, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_to_complain_about_in_scripts() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    assert {Path("packaging/install"), Path("tests/run")} <= set(SCRIPTS)
    done = subprocess.run(
        [shellcheck, *SCRIPTS], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
