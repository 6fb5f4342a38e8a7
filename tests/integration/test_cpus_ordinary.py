"""AssignedCPUs= of an ordinary user: among his own boxes, and apart from root's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sdbox.cpus.register import ROOTS
from sdbox.systemd.endpoint import Endpoint
from tests.conftest import MARK, SECONDS, Sdbox
from tests.integration.test_user_manager import ENDPOINT
from tests.ordinary import (
    AS_NOBODY,
    NOBODY,
    PYTHON,
    command_of,
    need_user_namespaces,
    place_of,
    user_manager,
)
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Outcome, Running

NONE = Endpoint(kind="none", bus_socket="", cgroup_root="", journal="/run/systemd/journal")
LASTING = Path(f"/tmp/sdbox-cpus-{NOBODY}")
SESSION_DIRECTORY = Path(f"/run/user/{NOBODY}")
TWO = tuple(sorted(os.sched_getaffinity(0)))[:2]
ASK_FOR_ONE = ["-p", f"CPUAffinity={','.join(map(str, TWO))}", "--cpus=1"]
SHOW = "sed -n 's/^Cpus_allowed_list:.//p' /proc/self/status"

pytestmark = [
    pytest.mark.skipif(len(TWO) < 2, reason="this machine has one CPU"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root and an ordinary user"),
]


class Users(Sdbox):
    """The command as that user gives it. As a batch job has it: nothing says where his bus is."""

    popen: dict[str, Any] = {  # noqa: RUF012 - the same for all
        **AS_NOBODY,
        "cwd": "/",
        "env": {"PATH": os.environ["PATH"]},
    }

    def one(self, *options: str) -> tuple[Running, int]:
        """Start a job that has a CPU and waits for a line; return that CPU as well."""
        words = [*self.choice, *ASK_FOR_ONE, *options]
        running = self.start_sh(f"{SHOW}; read line", *words, **self.popen)
        return running, int(running.line())

    def another(self, *options: str) -> Outcome:
        return self.sh(SHOW, *self.choice, *ASK_FOR_ONE, *options, report=True, **self.popen)

    def waiting(self) -> Running:
        """Start a job for which there is no CPU, with the supervisor where it waits for one."""
        words = [*self.choice, *ASK_FOR_ONE, f"--wait-cpus={SECONDS:g}s"]
        running = self.start_sh(SHOW, *words, **self.popen)
        wait_until(lambda: _waits(running.pid))
        return running

    def listed(self) -> dict[int, dict[str, Any]]:
        entries = json.loads(self.call("cpus", "--json", **self.popen).out)
        return {entry["cpu"]: entry for entry in entries}

    @property
    def choice(self) -> list[str]:
        return ["--manager=none"] if self.endpoint is NONE else []


def _waits(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return any("inotify wd:" in p.read_text() for p in Path(f"/proc/{pid}/fdinfo").iterdir())
    return False


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    assert not LASTING.exists(), "that user has it for himself"
    yield
    shutil.rmtree(LASTING, ignore_errors=True)


@pytest.fixture
def no_session() -> None:
    """Have that user's runtime directory gone, which outlives his manager for a while."""
    if SESSION_DIRECTORY.exists():
        unit = f"user-runtime-dir@{NOBODY}.service"
        subprocess.run(["systemctl", "stop", unit], check=False, timeout=SECONDS)
    if SESSION_DIRECTORY.exists():
        pytest.skip("that user has a session")


@pytest.fixture
def command(sdbox_command: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    with command_of(NOBODY, sdbox_command) as words:
        yield words


@pytest.fixture
def directory() -> Iterator[Path]:
    with place_of(NOBODY) as place:
        yield place


@pytest.fixture
def unmanaged(command: tuple[str, ...], directory: Path) -> Iterator[Users]:
    found = Users(command, NONE, directory)
    yield found
    found.close()


@pytest.fixture(params=["none", "scope", "service"])
def users(
    request: pytest.FixtureRequest, command: tuple[str, ...], directory: Path
) -> Iterator[Users]:
    """Without a manager, and with that user's own."""
    with contextlib.ExitStack() as stack:
        if request.param != "none":
            stack.enter_context(user_manager())
            need_user_namespaces()
        endpoint = NONE if request.param == "none" else ENDPOINT
        unit_type = "service" if request.param == "service" else "scope"
        found = Users(command, endpoint, directory, unit_type)
        yield found
        found.close()


def test_two_jobs_have_different_cpus_and_the_third_has_none(users: Users, sdbox: Sdbox) -> None:
    first, one = users.one()
    second, two = users.one()
    assert {one, two} == set(TWO)
    listed = users.listed()
    assert (listed[one]["job"], listed[two]["job"]) == (first.id, second.id)
    third = users.another()
    assert (third.status, third.out) == (125, "")
    assert re.fullmatch(r"sdbox: AssignedCPUs=1: [^\n]*\n", third.err)
    assert f"{first.id} has CPU {one}" in third.err
    assert f"{second.id} has CPU {two}" in third.err
    first.send(b"\n")
    assert first.end().status == 0
    assert not users.listed()[one]["held"]
    done = users.another()
    assert done.out == f"{one}\n"
    assert done.account["cpus"] == [one]
    # Who is asked to believe an ordinary user would have no CPUs left, one day.
    assert first.id not in sdbox.call("cpus").out
    assert second.id not in sdbox.call("cpus").out


def test_who_keeps_it(users: Users) -> None:
    done = users.another()
    subtree = Path(ENDPOINT.cgroup_root, "cgroup.subtree_control")
    delegated = users.endpoint is not NONE and "cpuset" in subtree.read_text().split()
    by = "kernel" if delegated else "affinity"
    assert done.account["enforcement"]["AssignedCPUs"] == by
    assert ("kept by affinity" in done.err) == (by == "affinity")


@pytest.fixture
def delegated() -> Iterator[None]:
    """Have that user's manager be given all controllers, in the way that the hints tell root."""
    place = Path(f"/run/systemd/system/user@{NOBODY}.service.d")
    place.mkdir()
    try:
        (place / "delegate.conf").write_text("[Service]\nDelegate=cpu cpuset io memory pids\n")
        subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=SECONDS)
        yield
    finally:
        shutil.rmtree(place)
        subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=SECONDS)


@pytest.mark.needs_controller("cpuset")
@pytest.mark.parametrize("unit_type", ["scope", "service"])
@pytest.mark.usefixtures("delegated")
def test_a_job_cant_get_off_its_cpu(
    command: tuple[str, ...], directory: Path, unit_type: str
) -> None:
    """Where root lets the user's systemd have the controller."""
    with user_manager():
        users = Users(command, ENDPOINT, directory, unit_type)
        words = [*ASK_FOR_ONE, "--", "sh", "-c", f"taskset -pc 0-1 $$ >/dev/null; {SHOW}"]
        first, one = users.one()
        done = users.run(*words, report=True, **users.popen)
        assert {int(done.out), one} == set(TWO)
        assert done.account["enforcement"]["AssignedCPUs"] == "kernel"
        assert done.err == ""
        first.send(b"\n")
        assert first.end().status == 0
        users.close()


def test_the_cpu_of_a_killed_supervisor_is_free(users: Users) -> None:
    first, one = users.one()
    _, two = users.one()
    waiting = users.waiting()
    first.signal(signal.SIGKILL)
    assert waiting.line() == str(one)
    assert waiting.end().status == 0
    assert users.listed()[two]["held"]


def test_roots_are_left_alone(users: Users, sdbox: Sdbox) -> None:
    """What root's jobs have is not given to a user's, and what a user's have, to root's it is."""
    roots = sdbox.start_sh("echo; read line", f"--cpus={TWO[0]}-{TWO[0]}")
    roots.line()
    _, cpu = users.one()
    assert cpu == TWO[1]
    refused = users.another()
    assert (refused.status, refused.err.count("\n")) == (125, 1)
    assert f"root has CPU {TWO[0]}" in refused.err
    assert f"{roots.id} " not in refused.err
    lines = [line.split() for line in users.call("cpus", **users.popen).out.splitlines()]
    assert {line[0]: line[-1] for line in lines}[str(TWO[0])] == "(root's)"
    more = sdbox.sh(SHOW, *ASK_FOR_ONE)
    assert (more.status, more.out) == (0, f"{TWO[1]}\n")
    waiting = users.waiting()
    roots.send(b"\n")
    assert roots.end().status == 0
    assert waiting.line() == str(TWO[0])


OPENERS = """
import os, sys
for flags in (os.O_RDONLY, os.O_RDWR, os.O_PATH):
    try:
        os.open(sys.argv[1], flags)
    except PermissionError:
        continue
    if flags != os.O_PATH:
        sys.exit(f"opened with {flags}")
"""


def test_roots_register_is_roots(sdbox: Sdbox) -> None:
    """Who could open it, could lock it, and have all of root's jobs wait."""
    assert sdbox.run("--cpus=1", "--", "true").status == 0
    words = [PYTHON, "-I", "-c", OPENERS, ROOTS.path]
    subprocess.run(words, check=True, cwd="/", timeout=SECONDS, **AS_NOBODY)


@pytest.mark.parametrize("mine", ["directory", "link", "file"])
def test_what_another_has_put_there_is_refused(unmanaged: Users, tmp_path: Path, mine: str) -> None:
    if mine == "directory":
        LASTING.mkdir(mode=0o777)
    elif mine == "link":
        LASTING.symlink_to(tmp_path)
    else:
        LASTING.touch()
    try:
        done = unmanaged.another()
        assert (done.status, done.out, done.err.count("\n")) == (125, "", 1)
        assert f"AssignedCPUs: {LASTING}/holders: " in done.err
        assert "See what" in done.err
    finally:
        if mine != "directory":
            LASTING.unlink()


@pytest.mark.usefixtures("no_session")
def test_jobs_from_before_a_session_count(unmanaged: Users, directory: Path) -> None:
    """Whether they began with a runtime directory or before there was one."""
    before, one = unmanaged.one()
    with user_manager():
        need_user_namespaces()
        during = Users(unmanaged.command, ENDPOINT, directory)
        try:
            _, two = during.one()
            assert {one, two} == set(TWO)
            assert during.listed()[one]["job"] == before.id
            assert f"{before.id} has CPU {one}" in during.another().err
        finally:
            during.close()


@pytest.fixture
def session(no_session: None) -> Iterator[Path]:
    """That user's runtime directory, as if he had just logged in."""
    with contextlib.ExitStack() as stack:
        if not SESSION_DIRECTORY.parent.exists():
            SESSION_DIRECTORY.parent.mkdir()
            stack.callback(SESSION_DIRECTORY.parent.rmdir)
        SESSION_DIRECTORY.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, SESSION_DIRECTORY, ignore_errors=True)
        shutil.chown(SESSION_DIRECTORY, NOBODY, NOBODY)
        yield SESSION_DIRECTORY


def test_a_job_that_outlives_its_session_keeps_its_cpu(unmanaged: Users, session: Path) -> None:
    first, one = unmanaged.one()
    shutil.rmtree(session)
    _, two = unmanaged.one()
    assert {one, two} == set(TWO)
    assert f"{first.id} has CPU {one}" in unmanaged.another().err


def test_a_detached_job_keeps_its_cpu(command: tuple[str, ...], directory: Path) -> None:
    with user_manager():
        need_user_namespaces()
        users = Users(command, ENDPOINT, directory, "service")
        job = users.new_id()
        environment = {**users.popen["env"], MARK: job}
        words = ("run", "--detach", f"--id={job}", *ASK_FOR_ONE, "--", "sleep", "600")
        assert users.call(*words, **{**users.popen, "env": environment}).status == 0
        held = [cpu for cpu, entry in users.listed().items() if entry["job"] == job]
        assert len(held) == 1
        assert users.call("kill", job, **users.popen).status == 0
        wait_until(lambda: not users.listed()[held[0]]["held"])
        users.close()
