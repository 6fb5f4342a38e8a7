"""A file system that the job itself serves: there for the job alone, and never in its end's way."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.kernel import bpf
from tests.integration import fuse_file

if TYPE_CHECKING:
    from tests.conftest import Sdbox

SERVER = str(Path(fuse_file.__file__).resolve())
# With a mount namespace of its own, and without PrivateTmp, so that the tests' files are there.
OWN_MOUNTS = ("--tmpfs", "/mnt:mode=0777")
SERVE = f"exec {sys.executable} -IS {SERVER} /mnt"


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _fuse() -> None:
    if "fuse" not in Path("/proc/filesystems").read_text().split():
        pytest.skip("this kernel has no FUSE")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("this machine has no /dev/fuse")


def mounted_here() -> bool:
    return " - fuse sdbox-test " in Path("/proc/self/mountinfo").read_text()


def test_a_job_has_a_file_system_of_its_own(sdbox: Sdbox) -> None:
    script = f"exec 3<&0; {SERVE} <&3 | (read line; echo $line; cat /mnt/file; echo closed)"
    job = sdbox.start_sh(script, *OWN_MOUNTS)
    assert job.line() == "mounted"
    assert job.line() + "\n" == fuse_file.CONTENT.decode()
    assert not mounted_here()
    assert job.line() == "closed"
    assert job.end().status == 0


def test_it_takes_the_device(sdbox: Sdbox) -> None:
    needed = bpf.missing()
    if needed:
        pytest.skip(needed)
    denied = sdbox.sh(SERVE, *OWN_MOUNTS, "-p", "DevicePolicy=closed")
    assert denied.status == 1
    assert "PermissionError: [Errno 1] Operation not permitted: '/dev/fuse'" in denied.err
    allowed = sdbox.sh(
        SERVE, *OWN_MOUNTS, "-p", "DevicePolicy=closed", "-p", "DeviceAllow=/dev/fuse rw"
    )
    assert (allowed.out, allowed.err, allowed.status) == ("mounted\n", "", 0)


@pytest.mark.parametrize("how", ["kill", "SIGKILL of the supervisor", "the payload's end"])
def test_one_that_does_not_answer_keeps_no_job_from_its_end(sdbox: Sdbox, how: str) -> None:
    """Who asks it for something waits in the kernel, where the freezer does not get at it."""
    leave = "read line <&3" if how == "the payload's end" else "wait"
    asking = "read line; echo $line; cat /mnt/file"
    script = f"exec 3<&0; sleep 1000 | {SERVE} deaf | ({asking}) & {leave}"
    job = sdbox.start_sh(script, *OWN_MOUNTS)
    assert job.line() == "mounted"
    if how == "kill":
        assert sdbox.call("kill", job.id).status == 0
    elif how == "the payload's end":
        job.send(b"\n")
    else:
        job.process.kill()
    job.end()
