"""What a cgroup has of what was asked for, here a plain directory with such files."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from sdbox.cgroup import Cgroup
from sdbox.errors import Unenforceable
from sdbox.properties import CgroupFile
from sdbox.systemd import readback

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("contents", "good"), [("7\n", True), ("8\n", False), (None, False)])
def test_a_file_that_is_read_back(tmp_path: Path, contents: str | None, good: bool) -> None:
    if contents is not None:
        (tmp_path / "pids.max").write_text(contents)
    files = [CgroupFile(name="pids.max", contents="7")]
    refused = pytest.raises(Unenforceable, match=r"^u: pids.max is .*, where 7 was asked for")
    with Cgroup.open(str(tmp_path)) as cgroup, nullcontext() if good else refused:
        readback.check("u", cgroup, files)


# What was asked for, and is all that the file for it ever says; what is granted; whether that will
# do; and whether it does for CPUs that no other job has.
@pytest.mark.parametrize(
    ("asked", "granted", "some", "all_"),
    [
        ("2-3", "2-3", True, True),
        ("2-7", "2-3", True, False),
        # None of them: the kernel gives all that the cgroup above has.
        ("2-7", "0-1", False, False),
        ("2-7", "0-2", False, False),
        ("2", "0-7", False, False),
        ("2", "", False, False),
        # Any, as set-property may ask for.
        ("", "0-7", True, True),
    ],
)
def test_cpus_are_what_the_kernel_grants(
    tmp_path: Path, asked: str, granted: str, some: bool, all_: bool
) -> None:
    (tmp_path / "cpuset.cpus").write_text(f"{asked}\n")
    (tmp_path / "cpuset.cpus.effective").write_text(f"{granted}\n")
    files = [CgroupFile(name="cpuset.cpus", contents=asked)]
    told = f"^u: the kernel lets it have CPUs {granted}, where {asked} was asked for"
    for good, all_cpus in ((some, False), (all_, True)):
        refused = pytest.raises(Unenforceable, match=told)
        with Cgroup.open(str(tmp_path)) as cgroup, nullcontext() if good else refused:
            readback.check("u", cgroup, files, all_cpus=all_cpus)
