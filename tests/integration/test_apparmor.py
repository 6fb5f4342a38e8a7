"""The AppArmor profile, as far as its parser goes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROFILE = Path(__file__).parent.parent.parent / "packaging/apparmor/sdbox"


def test_the_profile_is_one() -> None:
    parser = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
    if parser is None or not Path("/etc/apparmor.d/abi/4.0").exists():
        pytest.skip("AppArmor 4, which has user namespaces, is not installed")
    # -Q: not into the kernel. -K: nor into a cache.
    command = [parser, "--skip-kernel-load", "--skip-cache", str(PROFILE)]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, done.stderr
