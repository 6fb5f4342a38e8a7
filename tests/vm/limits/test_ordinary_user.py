"""An ordinary user whose systemd lingers: the whole box, and a limit that the kernel keeps."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Sdbox
from tests.integration.test_user_manager import ENDPOINT, ROOT
from tests.ordinary import AS_NOBODY, NOBODY, place_of, user_manager

if TYPE_CHECKING:
    from collections.abc import Iterator

HOG = "b = bytearray(300 << 20); print('has it all')"


@pytest.fixture(params=["scope", "service"])
def users(request: pytest.FixtureRequest, sdbox_command: tuple[str, ...]) -> Iterator[Sdbox]:
    with user_manager(), place_of(NOBODY) as place:
        command = Sdbox(sdbox_command, ENDPOINT, place, request.param)
        yield command
        command.close()


def options() -> dict[str, Any]:
    return {**AS_NOBODY, "cwd": "/", "env": {"PATH": os.environ["PATH"]}}


def test_a_users_manager_has_memory() -> None:
    with user_manager():
        assert {"memory", "pids"} <= set(Path(ROOT, "cgroup.controllers").read_text().split())


def test_memory_is_the_kernels_to_limit(users: Sdbox) -> None:
    done = users.run("--memory=64M", "--", sys.executable, "-ISc", HOG, report=True, **options())
    assert done.status in (-signal.SIGKILL, -signal.SIGTERM)
    assert done.account["enforcement"] == {"MemoryMax": "kernel", "MemorySwapMax": "kernel"}
    assert done.account["reason"] == "memory"
    assert "Job has gone over memory limit of 64 megabytes." in done.err


def test_a_box_inside_has_no_more_than_the_one_around(users: Sdbox) -> None:
    inner = [*users.command, "run", "--memory=1G", "--pid-namespace", "--"]
    hog = [*inner, sys.executable, "-ISc", HOG]
    done = users.run("--nestable", "--memory=100M", "--", *hog, report=True, **options())
    assert done.account["enforcement"]["MemoryMax"] == "kernel"
    assert "has it all" not in done.out
    assert done.account["reason"] == "memory"
    assert done.account["memory_limit_bytes"] == 100 << 20


def test_a_fork_bomb_stops(users: Sdbox) -> None:
    script = "n=0; while sleep 600 & do n=$((n+1)); [ $n -lt 40 ] || exit 0; done; exit 9"
    done = users.sh(script, "--tasks=20", report=True, **options())
    assert done.account["enforcement"] == {"TasksMax": "kernel"}
    assert done.status not in (0, None)


def test_the_whole_box(users: Sdbox) -> None:
    place = Path(tempfile.mkdtemp(prefix="sdbox-roots-", dir="/srv"))
    try:
        place.chmod(0o755)
        for name in ("bin", "tmp", "var/tmp", "proc", "sys", "dev", "run"):
            (place / "el7" / name).mkdir(parents=True)
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, place / "el7/bin/busybox")
        (place / "el7/bin/sh").symlink_to("busybox")
        (place / "conf").write_text(f'[roots]\nel7 = "{place}/el7"\n')
        box = (f"--config={place}/conf", "--root=el7", "--private-tmp", "--pid-namespace")
        script = "echo $$ /proc/[0-9]* /*; busybox ls -A /tmp; busybox id -u"
        done = users.sh(script, *box, "--memory=64M", "--network=none", **options())
        expected = "2 /proc/1 /proc/2 /bin /dev /proc /run /sys /tmp /var"
        assert (done.out, done.err) == (f"{expected}\n{NOBODY}\n", "")
    finally:
        shutil.rmtree(place)
