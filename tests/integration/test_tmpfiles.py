"""What systemd-tmpfiles does with the private directories of jobs: nothing, but at a boot."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.conftest import CHECKOUT, SECONDS

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = CHECKOUT / "packaging/tmpfiles.conf"
# Whatever is there has been there for too long.
AGEING = "d /tmp 1777 root root 0\nd /var/tmp 1777 root root 0\n"

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-tmpfiles"), reason="systemd-tmpfiles is not installed"
)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The root directory of one, with a job's private directory and another in each place."""
    for above in ("tmp", "var/tmp"):
        for name in ("sdbox-private-x-1/tmp", "other"):
            place = tmp_path / "machine" / above / name
            place.mkdir(parents=True)
            (place / "file").touch()
    return tmp_path / "machine"


def left(machine: Path, *options: str) -> set[str]:
    """What is there when systemd-tmpfiles has done its work."""
    ageing = machine.with_name("ageing.conf")
    ageing.write_text(AGEING)
    words = [f"--root={machine}", *options, str(CONFIGURATION), str(ageing)]
    subprocess.run(["systemd-tmpfiles", *words], check=True, timeout=SECONDS)
    return {str(path.relative_to(machine)) for path in machine.rglob("*") if path.is_file()}


OTHERS = {"tmp/other/file", "var/tmp/other/file"}
PRIVATE = {"tmp/sdbox-private-x-1/tmp/file", "var/tmp/sdbox-private-x-1/tmp/file"}


def test_a_job_may_be_idle_for_long(machine: Path) -> None:
    assert left(machine, "--clean") == PRIVATE


def test_nothing_of_a_job_outlives_the_machine(machine: Path) -> None:
    assert left(machine, "--create", "--remove") == PRIVATE | OTHERS
    assert left(machine, "--create", "--remove", "--boot") == OTHERS
