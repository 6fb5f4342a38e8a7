"""An ordinary user for tests that root runs: the one that every machine has for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.host import booted

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
# What subprocess.run takes to be that user.
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}


def need_user_namespaces() -> None:
    """Skip where an ordinary user can't have one with the mounts that a box needs."""
    program = ["unshare", "--user", "--map-current-user", "--mount", "true"]
    if subprocess.run(program, check=False, capture_output=True, **AS_NOBODY).returncode:
        pytest.skip("an ordinary user can have no user namespaces here")


def need_own_proc() -> None:
    """Skip where a user namespace can't have a /proc of its own: the machine's is covered."""
    need_user_namespaces()
    program = ["unshare", "-Urpf", "--mount-proc", "true"]
    if subprocess.run(program, check=False, capture_output=True, **AS_NOBODY).returncode:
        pytest.skip("an ordinary user can mount no /proc here")


@contextmanager
def place_of(uid: int) -> Iterator[Path]:
    """A directory of a user's own, which pytest's are not."""
    place = Path(tempfile.mkdtemp(prefix="sdbox-test-", dir="/var/tmp"))
    try:
        place.chmod(0o755)
        shutil.chown(place, uid, uid)
        yield place
    finally:
        shutil.rmtree(place)


@contextmanager
def user_manager() -> Iterator[None]:
    """That user's own systemd, as with linger; skip where none can be started."""
    if os.geteuid() != 0 or not booted():
        pytest.skip("systemd, which starts users' managers, is not this machine's PID 1")
    unit = f"user@{NOBODY}.service"
    started = subprocess.run(["systemctl", "start", unit], check=False, capture_output=True)
    if started.returncode or not Path(f"/run/user/{NOBODY}/bus").exists():
        pytest.skip("no manager of an ordinary user can be started here")
    try:
        yield
    finally:
        subprocess.run(["systemctl", "stop", unit], check=True)
