"""An ordinary user's jobs, in units of his own systemd: scopes and services."""

from __future__ import annotations

import grp
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.systemd.endpoint import Endpoint
from tests.conftest import (
    CHECKOUT,
    MARK,
    SECONDS,
    Sdbox,
    private_directories,
    processes_with,
    wait_for_end,
)
from tests.ordinary import (
    AS_NOBODY,
    NOBODY,
    PYTHON,
    need_own_proc,
    need_user_namespaces,
    place_of,
    user_manager,
    users_systemctl,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = f"/sys/fs/cgroup/user.slice/user-{NOBODY}.slice/user@{NOBODY}.service"
ENDPOINT = Endpoint(kind="user", bus_socket="", cgroup_root=ROOT, journal="")


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", autouse=True, params=["bus", "private"])
def manager(request: pytest.FixtureRequest) -> Iterator[None]:
    """It is reached by the user's bus, or, where there is none, by systemd's own socket."""
    with user_manager(bus=request.param == "bus"):
        need_user_namespaces()
        yield


@pytest.fixture
def users(sdbox_command: tuple[str, ...], unit_type: str) -> Iterator[Sdbox]:
    """The command, whose jobs are that user's."""
    with place_of(NOBODY) as place:
        command = Sdbox(sdbox_command, ENDPOINT, place, unit_type)
        yield command
        command.close()


def options(**more: Any) -> dict[str, Any]:
    """As a batch job has it: no XDG_RUNTIME_DIR, no address of a bus."""
    return {**AS_NOBODY, "cwd": "/", "env": {"PATH": os.environ["PATH"]}, **more}


def test_a_job_in_a_unit_of_its_users_manager(users: Sdbox) -> None:
    script = "grep ^0:: /proc/self/cgroup; id -u; cat; exit 7"
    done = users.sh(script, "--wall=1h", report=True, **options(input=b"in\n"))
    unit = users.unit(done.id)
    place = ROOT.removeprefix("/sys/fs/cgroup")
    assert done.out == f"0::{place}/sdbox.slice/{unit}\n{NOBODY}\nin\n"
    assert (done.status, done.err) == (7, "")
    account = done.account
    assert (account["manager"], account["unit"], account["reason"]) == ("user", unit, "exited")
    assert account["enforcement"] == {"RuntimeMaxSec": "manager"}


def test_isolation(users: Sdbox) -> None:
    box = ("--private-tmp", "--network=none", "--private-ipc", "-pManagerAccess=no")
    script = """
ls -A /tmp; ls /run/user; echo x >/tmp/x; grep ^CapEff /proc/self/status; cut -d: -f1 /proc/net/dev
"""
    done = users.sh(script, *box, **options())
    lines = [line.strip() for line in done.out.splitlines()]
    assert (lines[0], lines[-1]) == ("CapEff:\t0000000000000000", "lo")
    assert (done.status, done.err) == (0, "")
    assert not Path("/tmp/x").exists()


def test_a_pid_namespace(users: Sdbox) -> None:
    need_own_proc()
    done = users.sh("echo $$ /proc/[0-9]*", "--pid-namespace", **options())
    assert (done.out, done.err) == ("2 /proc/1 /proc/2\n", "")


def test_what_is_left_behind_is_ended(users: Sdbox) -> None:
    done = users.sh("setsid sleep 600 & exit 3", "--private-tmp", **options())
    assert done.status == 3
    assert processes_with([f"{MARK}={done.id}\0".encode()]) == []


def test_a_box_dies_with_its_supervisor(users: Sdbox) -> None:
    running = users.start_sh("setsid sleep 600 & echo up; wait", "--private-tmp", **options())
    assert running.line() == "up"
    running.signal(signal.SIGKILL)
    assert wait_for_end([f"{MARK}={running.id}\0".encode()], SECONDS)
    running.end()
    assert private_directories(running.id) == []


@pytest.mark.parametrize("chosen", [(), ("--manager=user",)])
def test_what_the_journal_has_of_it(users: Sdbox, chosen: tuple[str, ...]) -> None:
    done = users.sh("exit 7", **options())
    subprocess.run(["journalctl", "--sync"], check=True)
    # This one's entries are in the system's journal, as those of all that have no home.
    reader = options(extra_groups=(grp.getgrnam("systemd-journal").gr_gid,))
    logs = users.call("logs", done.id, *chosen, "--output=json", **reader)
    entries = [json.loads(line) for line in logs.out.splitlines()]
    events = [entry for entry in entries if entry.get("SDBOX_JOB") == done.id]
    messages = [entry["MESSAGE"] for entry in events]
    assert len(messages) == 2, logs
    assert "Job starts: sh -c" in messages[0]
    assert "Job exited with status 7." in messages[1]
    assert {entry["_UID"] for entry in events} == {str(NOBODY)}


def test_a_wall_limit_is_the_managers(users: Sdbox) -> None:
    done = users.sh("sleep 600", "--wall=1s", report=True, **options())
    assert done.account["reason"] == "wall-time"
    assert done.status == -signal.SIGTERM


@pytest.mark.parametrize("unit_type", ["service"])
def test_a_detached_job(users: Sdbox) -> None:
    job = users.new_id()
    script = "trap '' USR1; sleep 0.5; exit 6"
    words = ("--detach", f"--id={job}", "--private-tmp", "--", "sh", "-c", script)
    done = users.call("run", *words, **options())
    assert (done.status, done.out, done.err) == (0, f"{job}\n", "")
    assert users.call("wait", job, **options()).status == 6


def test_a_manager_that_executes_itself_anew_loses_no_job(users: Sdbox) -> None:
    running = users.start_sh("echo up; read line; setsid sleep 600 & exit 4", **options())
    assert running.line() == "up"
    users_systemctl("daemon-reexec")
    running.send(b"\n")
    assert running.end().status == 4
    assert not users.cgroup(running.id).exists()


def test_verbs(users: Sdbox) -> None:
    running = users.start_sh("echo up; exec sleep 600", **options())
    assert running.line() == "up"
    for verb, state in (("freeze", "frozen"), ("thaw", "running")):
        assert users.call(verb, running.id, **options()).status == 0
        shown = users.call("list", "--json", running.id, **options())
        assert [job["state"] for job in json.loads(shown.out)] == [state]
    assert users.call("kill", running.id, **options()).status == 0
    assert running.end().status == -signal.SIGKILL


def inner(users: Sdbox, *words: str) -> list[str]:
    return [*users.command, "run", *words]


def test_boxes_in_a_box(users: Sdbox) -> None:
    deepest = inner(
        users, "--id=c", "--private-tmp", "--", "sh", "-c", "grep ^0:: /proc/self/cgroup"
    )
    middle = inner(users, "--id=b", "--nestable", "--", *deepest)
    done = users.run("--nestable", "--private-shm", "--", *middle, report=True, **options())
    own = "sdbox-" + done.id.replace("-", "\\x2d")
    place = f"/sdbox.slice/{own}.slice/{own}-b.slice/sdbox-{done.id}.b.c.scope"
    assert done.out == f"0::{ROOT.removeprefix('/sys/fs/cgroup')}{place}\n"
    assert (done.status, done.err) == (0, "")
    assert done.account["enforcement"]["Nestable"] == "kernel"
    assert not Path(f"/run/user/{NOBODY}/sdbox-box").exists()
    assert list(Path(ROOT, "sdbox.slice").glob("*.slice")) == []


def test_freezing_the_one_around_freezes_all(users: Sdbox) -> None:
    words = inner(users, "--id=b", "--", "sh", "-c", "echo up; exec sleep 600")
    running = users.start("--nestable", "--", *words, **options())
    assert running.line() == "up"
    assert users.call("freeze", running.id, **options()).status == 0
    shown = users.call("list", "--json", f"{running.id}.b", **options())
    assert [job["state"] for job in json.loads(shown.out)] == ["frozen-by-parent"]
    assert users.call("kill", running.id, **options()).status == 0
    assert running.end().status == -signal.SIGKILL


def test_a_box_inside_has_no_more_than_the_one_around(users: Sdbox) -> None:
    hog = "b = bytearray(300 << 20); import time; time.sleep(600)"
    words = inner(users, "--memory=1G", "--", PYTHON, "-ISc", hog)
    done = users.run("--nestable", "--memory=100M", "--", *words, report=True, **options())
    assert done.account["reason"] == "memory"
    assert done.account["memory_limit_bytes"] == 100 << 20
    assert "Job has gone over memory limit of 100 megabytes." in done.err


def test_a_way_out_that_would_be_hidden_is_refused(users: Sdbox) -> None:
    done = users.sh("true", "--nestable", "--protect-home=yes", **options())
    assert (done.status, done.out) == (125, "")
    assert "ProtectHome" in done.err
    assert done.err.count("\n") == 1


def test_boxes_in_a_strict_box(users: Sdbox) -> None:
    seen = [f"--bind-ro={place}" for place in {str(CHECKOUT), sys.prefix} if place != "/usr"]
    words = inner(users, "--", "sh", "-c", "echo inside")
    strict = ("--box=strict", "-pPrivatePIDs=no", "-pProtectProc=default", "--system-calls=~@swap")
    done = users.run(*strict, *seen, "--nestable", "--", *words, **options())
    assert (done.out, done.err) == ("inside\n", "")


def test_what_is_not_delegated_is_refused_with_the_remedy(users: Sdbox) -> None:
    present = Path(ROOT, "cgroup.controllers").read_text().split()
    if "cpuset" in present:
        pytest.skip("users' managers have the cpuset controller here")
    done = users.sh("true", "--allowed-cpus=0", **options())
    assert (done.status, done.out) == (125, "")
    assert "no cpuset controller" in done.err
    assert "systemctl edit user@.service" in done.err


@pytest.mark.parametrize("option", ["--user=root", "--allow-ip=127.0.0.1", "-pDevicePolicy=closed"])
def test_what_is_roots_is_refused(users: Sdbox, option: str) -> None:
    done = users.sh("true", option, **options())
    assert (done.status, done.out) == (125, "")
    assert "root" in done.err
    assert done.err.count("\n") == 1


def test_doctor_tells_a_user(users: Sdbox) -> None:
    done = users.call("doctor", "--json", **options())
    told = json.loads(done.out)
    findings = {one["name"]: one for one in told["findings"]}
    assert (done.status, told["manager"]) == (0, "user")
    assert findings["user namespaces"]["good"]
    assert not findings["linger"]["good"]
    assert findings["linger"]["remedy"] == "As root: `loginctl enable-linger nobody`"
    kept = {one["directive"]: one["kept_by"] for one in told["directives"]}
    assert (kept["User"], kept["PrivateTmp"], kept["RuntimeMaxSec"]) == (
        "refused",
        "kernel",
        "manager",
    )


def test_a_named_root(users: Sdbox) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox-static is not installed")
    place = Path(tempfile.mkdtemp(prefix="sdbox-roots-", dir="/srv"))
    try:
        place.chmod(0o755)
        (place / "el7/bin").mkdir(parents=True)
        for name in ("proc", "sys", "dev", "run"):
            (place / "el7" / name).mkdir()
        shutil.copy(busybox, place / "el7/bin/sh")
        (place / "conf").write_text(f'[roots]\nel7 = "{place}/el7"\n')
        done = users.sh("echo /*", f"--config={place}/conf", "--root=el7", **options())
        assert (done.out, done.err) == ("/bin /dev /proc /run /sys\n", "")
    finally:
        shutil.rmtree(place)
