"""`--service`: what only a service has, and what it is asked of systemd for."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Running, Sdbox


@pytest.fixture
def unit_type() -> str:
    return "service"


def shown(sdbox: Sdbox, job: Running, *names: str) -> dict[str, str]:
    done = sdbox.inside("systemctl", "show", job.unit, *(f"--property={name}" for name in names))
    return dict(line.split("=", 1) for line in done.out.splitlines())


def test_systemd_knows_of_what_it_keeps(sdbox: Sdbox) -> None:
    options = ("--network=none", "--cpu-affinity=0", "--no-new-privileges=yes", "--wall=1h")
    job = sdbox.start_sh("echo up; read line", *options)
    job.line()
    assert shown(
        sdbox, job, "PrivateNetwork", "CPUAffinity", "NoNewPrivileges", "RuntimeMaxUSec", "Slice"
    ) == {
        "PrivateNetwork": "yes",
        "CPUAffinity": "0",
        "NoNewPrivileges": "yes",
        "RuntimeMaxUSec": "1h",
        "Slice": "sdbox.slice",
    }
    job.end()


def test_systemd_is_its_parent(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("echo up; read line", "--pid-namespace")
    job.line()
    first, *others = sdbox.members(job.id)
    status = Path(f"/proc/{first}/status").read_text().split()
    parent = Path("/proc", status[status.index("PPid:") + 1])
    assert (parent / "comm").read_text() == "systemd\n"
    assert (parent / "ns/pid").stat().st_ino != Path(f"/proc/{others[-1]}/ns/pid").stat().st_ino
    job.end()


def test_what_systemd_can_not_set_up_is_told_by_name(sdbox: Sdbox) -> None:
    done = sdbox.run("--cpu-affinity=8191", "--", "true", report=True)
    assert done.status == 125
    assert done.err == (
        f"sdbox: {sdbox.unit(done.id)}: CPUAffinity: systemd could not set it up."
        f" See `journalctl -u {sdbox.unit(done.id)}`\n"
    )
    assert done.account["reason"] == "launch-failed"


def test_it_has_of_its_caller_what_a_child_would_have(sdbox: Sdbox) -> None:
    script = (
        "import os, resource;"
        "os.umask(0o27); os.nice(3); os.sched_setaffinity(0, {0}); os.setgroups([0, 4, 24]);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200));"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 4096));"
        "import sys; os.execvp(sys.argv[1], sys.argv[1:])"
    )
    look = "umask; nice; id -G; ulimit -Sn; ulimit -Hn; ulimit -Sc; "
    look += "grep Cpus_allowed_list /proc/$$/status"
    sdbox.command = (sys.executable, "-c", script, *sdbox.command)
    done = sdbox.sh(look)
    nice = os.getpriority(os.PRIO_PROCESS, 0) + 3
    words = ["0027", str(nice), "0", "4", "24", "100", "200", "0", "Cpus_allowed_list:", "0"]
    assert done.out.split() == words


def test_the_callers_mounts_are_the_jobs(sdbox: Sdbox) -> None:
    """A caller in a mount namespace of its own, which systemd is not in."""
    script = 'mount -t tmpfs none /mnt && echo here > /mnt/file && exec "$@"'
    sdbox.command = ("unshare", "--mount", "sh", "-c", script, "sh", *sdbox.command)
    assert sdbox.run("--", "cat", "/mnt/file").out == "here\n"


def test_a_caller_in_a_network_namespace(sdbox: Sdbox) -> None:
    sdbox.command = ("unshare", "--net", *sdbox.command)
    assert "lo:" in (out := sdbox.run("--", "cat", "/proc/net/dev").out)
    assert out.count(":") == 1


def test_a_stopped_one_ends_as_a_scope_does(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("trap 'exit 9' TERM; echo up; while :; do sleep 1; done")
    job.line()
    assert sdbox.inside("systemctl", "stop", job.unit).status == 0
    assert job.end().status == 9


def test_a_payload_that_kills_its_process_group(sdbox: Sdbox) -> None:
    done = sdbox.sh("kill -9 0", "--pid-namespace", report=True)
    assert done.status == -signal.SIGKILL
    assert (done.account["reason"], done.account["signal"]) == ("signal", signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", "status=7"), ("kill -KILL $$", "status=137")]
)
def test_systemd_sees_its_exit_status(sdbox: Sdbox, script: str, status: str) -> None:
    for options in ([], ["--pid-namespace"]):
        done = sdbox.sh(script, *options)
        words = ("journalctl", "--no-pager", "--output=cat", f"--unit={sdbox.unit(done.id)}")
        (told,) = (line for line in sdbox.inside(*words).out.splitlines() if "Main process" in line)
        assert f"code=exited, {status}" in told


async def test_through_the_launcher(new_id: Callable[[], str]) -> None:
    async with Launcher() as launcher:
        jobs = [
            await launcher.start(["sh", "-c", f"exit {n}"], id=new_id(), unit_type="service")
            for n in range(5)
        ]
        results = [await job.wait() for job in jobs]
    assert [result.exit_code for result in results] == list(range(5))
    assert all((result.unit or "").endswith(".service") for result in results)
