"""A job where an administrator looks for it: systemctl, systemd-cgls, journalctl, ps."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.ids import SESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Running, Sdbox


SLICE = f"sdbox-{SESSION}look.slice"
TREE = "sh -c 'echo up; read line' the-child; exit 0"


@pytest.fixture
def job(sdbox: Sdbox) -> Iterator[Running]:
    job = sdbox.start_sh(
        TREE, "--memory=256M", "--description=A job to look at", f"--slice={SLICE}"
    )
    try:
        assert job.line() == "up"
        yield job
        if job.process.poll() is None:
            job.send(b"\n")
            job.end()
    finally:
        sdbox.inside("systemctl", "stop", SLICE)


def shown(sdbox: Sdbox, unit: str, *names: str) -> dict[str, str]:
    options = [f"--property={name}" for name in names]
    done = sdbox.inside("systemctl", "show", unit, *options)
    assert done.status == 0, done.err
    return dict(line.split("=", 1) for line in done.out.splitlines())


def test_systemctl_shows_what_was_asked_for(sdbox: Sdbox, job: Running) -> None:
    assert shown(
        sdbox, job.unit, "Slice", "MemoryMax", "Description", "ActiveState", "ControlGroup"
    ) == {
        "Slice": SLICE,
        "MemoryMax": str(256 << 20),
        "Description": "A job to look at",
        "ActiveState": "active",
        "ControlGroup": f"/sdbox.slice/{SLICE}/{job.unit}",
    }


def test_systemd_cgls_shows_the_tree(sdbox: Sdbox, job: Running) -> None:
    tree = sdbox.inside("systemd-cgls", "--no-pager", "--full", "--unit", job.unit).out
    assert f"sh -c {TREE}" in tree
    assert "sh -c echo up; read line the-child" in tree


def test_the_default_is_described_by_its_command(sdbox: Sdbox) -> None:
    job = sdbox.start_sh("echo up; read line")
    job.line()
    properties = shown(sdbox, job.unit, "Slice", "Description")
    assert properties["Slice"] == "sdbox.slice"
    assert job.id in properties["Description"]
    assert "echo up" in properties["Description"]
    job.send(b"\n")
    job.end()


def test_it_is_a_descendant_of_sdbox_run(job: Running) -> None:
    below = psutil.Process(job.pid).children(recursive=True)
    (child,) = (process for process in below if process.cmdline()[-1] == "the-child")
    # ps --forest: the child, the payload, init, the helper, sdbox run.
    assert [parent.pid for parent in child.parents()][3] == job.pid
    shown = subprocess.run(
        ["ps", "--forest", "-o", "pid,args", *(f"-p{process.pid}" for process in below)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"\\_ sh -c {TREE}" in shown.stdout


def test_the_supervisor_stays_outside(sdbox: Sdbox, job: Running) -> None:
    def cgroup(pid: int | str) -> str:
        with open(f"/proc/{pid}/cgroup") as lines:
            return next(line for line in lines if line.startswith("0::"))

    assert cgroup(job.pid) == cgroup("self")
    assert job.unit not in cgroup(job.pid)


def test_the_unit_is_gone_with_the_job(sdbox: Sdbox, job: Running) -> None:
    job.send(b"\n")
    job.end()
    assert shown(sdbox, job.unit, "LoadState", "ActiveState") == {
        "LoadState": "not-found",
        "ActiveState": "inactive",
    }


def test_a_job_that_failed_leaves_no_failed_unit(sdbox: Sdbox) -> None:
    jobs = [
        sdbox.sh("exit 1"),
        sdbox.sh("kill -SEGV $$"),
        sdbox.sh("exec sleep 600", "--wall=100ms"),
    ]
    listed = sdbox.inside("systemctl", "list-units", "--all", "--plain", "--no-legend").out
    assert [done.id for done in jobs if re.search(rf"sdbox-{done.id}\b", listed)] == []


def test_the_journal_knows_it(sdbox: Sdbox, job: Running) -> None:
    job.send(b"\n")
    job.end()
    sdbox.inside("journalctl", "--sync")
    told = sdbox.inside("journalctl", "--no-pager", f"--unit={job.unit}").out
    assert "A job to look at" in told


def test_doctor(sdbox: Sdbox) -> None:
    done = sdbox.call("doctor", "--json")
    assert done.status == 0
    found = json.loads(done.out)
    assert found["manager"] == sdbox.endpoint.kind
    kept = {row["directive"]: row for row in found["directives"]}
    from sdbox.directives import DIRECTIVES

    assert set(kept) == set(DIRECTIVES)
    # What it says of a directive is what a launch does with it.
    refused = [row for row in kept.values() if row["kept_by"] == "refused"]
    assert all(row["remedy"] for row in refused)
    assert sdbox.call("doctor").status == 0


@pytest.mark.needs_embedded
def test_embedded_status_counts_jobs(sdbox: Sdbox, job: Running) -> None:
    status = json.loads(sdbox.call("embedded", "status", "--json").out)
    assert status["state"] == "running"
    assert status["jobs"] >= 1
    refused = sdbox.call("embedded", "stop")
    assert refused.status == 125
    assert "--force" in refused.err
    job.send(b"\n")
    assert job.end().status == 0


@pytest.mark.needs_embedded
def test_embedded_exec_ends_as_its_command(sdbox: Sdbox) -> None:
    assert sdbox.call("embedded", "exec", "--", "sh", "-c", "exit 9").status == 9
    assert sdbox.call("embedded", "exec", "--", "no-such-program").status == 127
    killed = sdbox.call("embedded", "exec", "--", "sh", "-c", "kill -KILL $$")
    assert killed.status == -9
    assert sdbox.call("embedded", "exec", "--", "sh", "-c", "kill -TERM $$").status == -15


def test_embedded_exec_takes_a_command(sdbox: Sdbox) -> None:
    done = sdbox.call("embedded", "exec", "--")
    assert (done.status, done.err) == (
        2,
        "sdbox: There is no command to run. See sdbox embedded exec --help\n",
    )
