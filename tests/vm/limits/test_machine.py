"""What the limit tests rest on: a kernel and a systemd that really keep limits."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 120
CGROUP = Path("/sys/fs/cgroup")
HOG = "data = bytearray(300 << 20); print('has it all')"


def test_units_have_every_controller() -> None:
    present = set((CGROUP / "cgroup.controllers").read_text().split())
    assert present >= {"cpu", "cpuset", "io", "memory", "pids"}


def test_a_hog_in_a_scope_of_systemds_own_is_killed() -> None:
    scope = ["systemd-run", "--scope", "-p", "MemoryMax=64M", "-p", "MemorySwapMax=0"]
    command = [*scope, "--", "python3", "-c", HOG]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, text=True)
    assert (done.returncode, done.stdout) == (-9, "")


def test_the_same_program_ends_well_with_room_enough() -> None:
    scope = ["systemd-run", "--scope", "-p", "MemoryMax=512M", "-p", "MemorySwapMax=0"]
    command = [*scope, "--", "python3", "-c", HOG]
    done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS, text=True)
    assert (done.returncode, done.stdout) == (0, "has it all\n")
