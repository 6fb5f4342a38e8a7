"""DiskMax= by project quotas: real file systems, of each kind that has them."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox import Box
from sdbox.host import projects
from sdbox.init import quota
from sdbox.init.steps import StepError
from sdbox.launcher import Launcher
from tests.conftest import MARK, SECONDS
from tests.waiting import wait_until, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Running, Sdbox

MIB = 1 << 20
LIMIT = 16 * MIB
MOST = LIMIT + quota.SLACK_BYTES
NOBODY = pwd.getpwnam("nobody").pw_uid
MESSAGE = r"Job has gone over disk limit of 16 megabytes\. Last measured usage: (\d+) megabytes\."
# What makes them, so that they have project quotas.
KINDS = {
    "ext4": ("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"),
    "xfs": ("mkfs.xfs", "-q"),
}
# What the kernel says of one that is used up.
TOLD = ("Disk quota exceeded", "No space left on device")
WRITE_ALL = 'exec head -c 40M /dev/zero > "$0"'
AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def disk(kind: str) -> Iterator[Path]:
    """A file system with project quotas."""
    with mounted(*KINDS[kind], options="loop,prjquota") as place:
        yield place


# What the helper does is the same for both, and each launch takes seconds on an emulated machine.
UNIT_TYPES = {"ext4": "scope", "xfs": "service"}


@pytest.fixture
def unit_type(kind: str) -> str:
    return UNIT_TYPES[kind]


# For what is the supervisor's alone.
one_unit_type = pytest.mark.parametrize("unit_type", ["scope"])


class mounted:  # noqa: N801 - reads as a statement
    """A file system on a loop device, made by a command."""

    def __init__(self, *command: str, options: str) -> None:
        self._command = command
        self._options = options
        self.place = Path(tempfile.mkdtemp(prefix="sdbox-quota-", dir="/srv"))

    def __enter__(self) -> Path:
        self.place.chmod(0o755)
        image = self.place.with_suffix(".image")
        with image.open("wb") as file:
            file.truncate(400 * MIB)
        subprocess.run([*self._command, image], check=True)
        subprocess.run(["mount", "-o", self._options, image, self.place], check=True)
        self.place.chmod(0o755)
        return self.place

    def __exit__(self, *raised: object) -> None:
        subprocess.run(["umount", self.place], check=True)
        self.place.rmdir()
        self.place.with_suffix(".image").unlink()


@pytest.fixture
def scratch(disk: Path) -> Iterator[Path]:
    """A directory of the job's user's there."""
    place = Path(tempfile.mkdtemp(prefix="dir_", dir=disk))
    os.chown(place, NOBODY, NOBODY)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def options(scratch: Path) -> tuple[str, ...]:
    return ("--disk=16M", "--user=nobody", f"--scratch={scratch}", "--chdir=/")


def project_of(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return quota.project_of(fd)
    finally:
        os.close(fd)


def is_limited(path: Path, number: int) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        return quota.is_limited(fd, number)
    finally:
        os.close(fd)


def claimed(*places: Path) -> projects.Claim:
    claim = projects.claim([str(place) for place in places])
    assert claim is not None
    return claim


def limited(claim: projects.Claim) -> quota.Project:
    """What the helper is told of a claim, and does."""
    project = (*claim.project, LIMIT)
    quota.begin(claim.held, project)
    return project


# --- what the kernel keeps


def test_the_kernel_stops_what_goes_over(scratch: Path) -> None:
    """Without any watch."""
    claim = claimed(scratch)
    try:
        project = limited(claim)
        quota.give_new(str(scratch), project)
        command = ["sh", "-c", WRITE_ALL, str(scratch / "file")]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True, **AS_NOBODY)  # type: ignore[call-overload]
        assert done.returncode != 0
        assert any(told in done.stderr for told in TOLD)
        used, files = quota.used(claim.place, claim.number)
        assert (LIMIT < used <= MOST, files) == (True, 2)
        quota.end(claim.held, project)
        subprocess.run(command, check=True, **AS_NOBODY)  # type: ignore[call-overload]
        assert (scratch / "file").stat().st_size == 40 * MIB
    finally:
        claim.close()


def test_a_job_that_goes_over_is_ended(sdbox: Sdbox, scratch: Path) -> None:
    """By the watch; whether it is before the kernel has told its program so, or not."""
    script = 'head -c 40M /dev/zero > "$0"; exec sleep 600'
    place = str(scratch / "file")
    done = sdbox.run(*options(scratch), "--", "sh", "-c", script, place, report=True)
    account = done.account
    assert (done.status, account["reason"]) == (-signal.SIGKILL, "disk"), done.err
    found = re.fullmatch(MESSAGE, account["message"])
    assert found is not None, account["message"]
    assert 16 <= int(found[1]) <= 17
    assert account["enforcement"]["DiskMax"] == "quota"
    assert Path(place).stat().st_size <= MOST
    number = project_of(scratch)
    assert quota.is_ours(number)
    assert not is_limited(scratch, number)


def test_a_job_that_fails_for_it_is_told_of(sdbox: Sdbox, scratch: Path) -> None:
    """Though it may be over before its watch looks."""
    script = 'head -c 40M /dev/zero > "$0"; exit 3'
    place = str(scratch / "file")
    done = sdbox.run(*options(scratch), "--", "sh", "-c", script, place, report=True)
    assert done.status in (3, -signal.SIGKILL)
    assert done.account["reason"] == "disk"
    assert re.fullmatch(MESSAGE, done.account["message"])
    # What head says may be cut off by its end.
    assert done.err.endswith(f"sdbox: {done.account['message']}\n")


def test_a_job_within_its_limit(sdbox: Sdbox, scratch: Path) -> None:
    script = 'for i in 1 2 3; do head -c 8M /dev/zero > "$0"; rm "$0"; done; exit 3'
    place = str(scratch / "file")
    done = sdbox.run(*options(scratch), "--", "sh", "-c", script, place, report=True)
    assert (done.status, done.account["reason"], done.err) == (3, "exited", "")
    assert done.account["enforcement"]["DiskMax"] == "quota"


@one_unit_type
def test_what_is_deleted_and_still_open_counts(sdbox: Sdbox, scratch: Path) -> None:
    script = 'exec 3> "$0"; rm "$0"; head -c 40M /dev/zero >&3; exec sleep 600'
    place = str(scratch / "file")
    done = sdbox.run(*options(scratch), "--", "sh", "-c", script, place, report=True)
    assert (done.status, done.account["reason"]) == (-signal.SIGKILL, "disk")


OUT_OF_IT = """
import fcntl, struct, sys, time
file = open(sys.argv[1], "wb")
fcntl.ioctl(file, int(sys.argv[2]), struct.pack("=IIIIIQ", 0, 0, 0, 0, 0, 0))
block = bytes(1 << 20)
for _ in range(40):
    file.write(block)
file.flush()
print("has written", flush=True)
time.sleep(600)
"""


def test_who_leaves_its_project_is_found_by_the_walk(sdbox: Sdbox, scratch: Path) -> None:
    """As a file's owner may, outside of user namespaces."""
    words = (sys.executable, "-ISc", OUT_OF_IT, str(scratch / "file"), str(quota._SET_ATTRIBUTES))
    done = sdbox.run(*options(scratch), "--", *words, report=True)
    assert (done.status, done.account["reason"]) == (-signal.SIGKILL, "disk"), done.err
    assert project_of(scratch / "file") == 0


def test_what_is_below_its_tmp_counts_as_well(sdbox: Sdbox, scratch: Path) -> None:
    script = "head -c 12M /dev/zero > /tmp/a; head -c 12M /dev/zero > $0/b; exit 3"
    words = ("--private-tmp", *options(scratch), "--", "sh", "-c", script, str(scratch))
    done = sdbox.run(*words, report=True)
    assert done.account["reason"] == "disk"
    assert done.account["enforcement"]["DiskMax"] == "quota"
    assert {project_of(path) for path in (scratch / "tmp", scratch / "tmp/a", scratch)} == {
        project_of(scratch)
    }


@pytest.fixture
def layer(disk: Path, tmp_path: Path) -> tuple[str, ...]:
    """For a root, which the helper makes, as it makes private directories."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    root.chmod(0o777)
    return ("--disk=16M", "--user=nobody", f"--root={root}", f"--root-overlay={disk}")


def test_a_layer_over_a_root(sdbox: Sdbox, layer: tuple[str, ...]) -> None:
    done = sdbox.sh("busybox head -c 24000000 /dev/zero > /file; exit 3", *layer, report=True)
    assert (done.account["reason"], done.account["enforcement"]["DiskMax"]) == ("disk", "quota")


def test_nothing_of_a_layer_is_left(sdbox: Sdbox, layer: tuple[str, ...], disk: Path) -> None:
    script = "busybox head -c 4000000 /dev/zero > /file; echo up; read line"
    job = sdbox.start_sh(script, *layer)
    assert job.line() == "up"
    (place,) = disk.glob("sdbox-private-*")
    number = project_of(place)
    fd = os.open(disk, os.O_RDONLY)
    assert quota.used(fd, number)[0] >= 4000000
    assert quota.is_limited(fd, number)
    job.send(b"\n")
    assert job.end().status == 0
    assert list(disk.glob("sdbox-private-*")) == []
    wait_until(lambda: quota.used(fd, number) == (0, 0))
    assert not quota.is_limited(fd, number)
    os.close(fd)


def test_in_a_box_that_can_write_to_nothing_else(sdbox: Sdbox, scratch: Path) -> None:
    (scratch / "file").write_bytes(bytes(12 * MIB))
    os.chown(scratch / "file", NOBODY, NOBODY)
    script = 'head -c 12M /dev/zero > "$0"; exit 3'
    words = ("--protect-system=strict", "--mount-under-scratch=/tmp", *options(scratch))
    done = sdbox.run(*words, "--", "sh", "-c", script, "/tmp/more", report=True)
    assert (done.account["reason"], done.account["enforcement"]["DiskMax"]) == ("disk", "quota")
    assert {project_of(path) for path in (scratch / "tmp/more", scratch / "file")} == {
        project_of(scratch)
    }


# --- what a job begins with


def test_what_is_there_already_counts(sdbox: Sdbox, scratch: Path, disk: Path) -> None:
    (scratch / "below/further").mkdir(parents=True)
    (scratch / "below/further/file").write_bytes(bytes(12 * MIB))
    outside = disk / "outside"
    outside.write_text("")
    os.link(outside, scratch / "linked")
    (scratch / "link").symlink_to(outside)
    os.mkfifo(scratch / "pipe")
    for path in scratch.glob("below/**/*"):
        os.chown(path, NOBODY, NOBODY)
    script = 'head -c 12M /dev/zero > "$0"; exit 3'
    place = str(scratch / "file")
    done = sdbox.run(*options(scratch), "--", "sh", "-c", script, place, report=True)
    assert done.account["reason"] == "disk"
    number = project_of(scratch)
    paths = ("below", "below/further", "below/further/file", "file")
    assert {project_of(scratch / path) for path in paths} == {number}
    assert project_of(outside) == 0, "it is root's, and has another name elsewhere"
    outside.unlink()


@one_unit_type
def test_somebody_elses_project_stays_that(sdbox: Sdbox, scratch: Path) -> None:
    fd = os.open(scratch, os.O_RDONLY)
    quota.give(fd, 7)
    os.close(fd)
    done = sdbox.sh("exit 0", *options(scratch), report=True)
    assert done.account["enforcement"]["DiskMax"] == "watch"
    assert project_of(scratch) == 7


@one_unit_type
def test_one_directory_of_somebody_elses_is_left_out(sdbox: Sdbox, scratch: Path) -> None:
    (scratch / "below").mkdir()
    fd = os.open(scratch / "below", os.O_RDONLY)
    quota.give(fd, 7)
    os.close(fd)
    done = sdbox.sh("exit 0", *options(scratch), report=True)
    assert done.account["enforcement"]["DiskMax"] == "quota"
    assert project_of(scratch / "below") == 7


@one_unit_type
def test_two_jobs_in_one_directory_have_no_two_quotas(sdbox: Sdbox, scratch: Path) -> None:
    first = sdbox.start_sh("echo up; read line", *options(scratch))
    assert first.line() == "up"
    number = project_of(scratch)
    done = sdbox.sh("exit 0", *options(scratch), report=True)
    assert done.account["enforcement"]["DiskMax"] == "watch"
    assert project_of(scratch) == number
    first.send(b"\n")
    assert first.end().status == 0
    again = sdbox.sh("exit 0", *options(scratch), report=True)
    assert again.account["enforcement"]["DiskMax"] == "quota"
    assert project_of(scratch) != number, "what is left counts for the first one"


@pytest.mark.parametrize("capabilities", [None, "none"])
def test_roots_job_is_bound_by_it_only_without_capabilities(
    sdbox: Sdbox, scratch: Path, capabilities: str | None
) -> None:
    os.chown(scratch, 0, 0)
    given = [f"--capabilities={capabilities}"] if capabilities else []
    script = 'head -c 40M /dev/zero > "$0"; exec sleep 600'
    words = ("--disk=16M", f"--scratch={scratch}", "--chdir=/", *given)
    done = sdbox.run(*words, "--", "sh", "-c", script, str(scratch / "file"), report=True)
    assert (done.status, done.account["reason"]) == (-signal.SIGKILL, "disk")
    assert done.account["enforcement"]["DiskMax"] == ("quota" if capabilities else "watch")


@one_unit_type
def test_it_is_for_what_is_on_one_file_system(sdbox: Sdbox, scratch: Path) -> None:
    assert projects.claim([str(scratch), "/var/tmp"]) is None
    assert projects.claim(["/var/tmp"]) is None
    done = sdbox.sh("exit 0", "--disk=16M", "--private-tmp", "--chdir=/", report=True)
    assert done.account["enforcement"]["DiskMax"] == "watch"


def test_without_enforcement_there_is_none() -> None:
    """A quota that only counts."""
    with mounted(*KINDS["ext4"], options="loop,noquota") as place:
        assert projects.claim([str(place)]) is None


def test_a_directory_that_is_another_by_now_is_refused(scratch: Path) -> None:
    claim = claimed(scratch)
    with pytest.raises(StepError, match="DiskMax"):
        quota.give_new("/var/tmp", (*claim.project, LIMIT))
    fd = os.open(scratch, os.O_RDONLY)
    quota.give(fd, 7)
    with pytest.raises(StepError, match="DiskMax"):
        quota.give_tree(fd, str(scratch), {NOBODY}, (*claim.project, LIMIT))
    os.close(fd)
    claim.close()


def test_nothing_is_renamed_or_linked_into_it(scratch: Path, disk: Path) -> None:
    claim = claimed(scratch)
    quota.give_new(str(scratch), (*claim.project, LIMIT))
    outside = disk / "outside"
    outside.write_text("")
    for into in (os.rename, os.link):
        with pytest.raises(OSError, match="cross-device"):
            into(outside, scratch / "inside")
    outside.unlink()
    claim.close()


# --- the end of it


def limited_job(sdbox: Sdbox, scratch: Path) -> tuple[Running, int]:
    job = sdbox.start_sh("echo up; exec sleep 600", *options(scratch))
    assert job.line() == "up"
    number = project_of(scratch)
    assert is_limited(scratch, number)
    return job, number


def test_it_is_lifted_when_the_supervisor_is_killed(sdbox: Sdbox, scratch: Path) -> None:
    job, number = limited_job(sdbox, scratch)
    os.kill(job.pid, signal.SIGKILL)
    wait_until(lambda: not is_limited(scratch, number))


def test_what_nobody_was_left_to_lift_is_lifted_by_the_next(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdbox.host.projects._start", lambda: 0)
    gone = claimed(scratch)
    quota.give_new(str(scratch), limited(gone))
    (scratch / "file").write_text("left")
    gone.close()
    assert is_limited(scratch, gone.number)
    next_one = claimed(scratch)
    assert next_one.number != gone.number
    assert not is_limited(scratch, gone.number)
    next_one.close()


def test_a_project_is_one_jobs(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdbox.host.projects._start", lambda: quota.COUNT - 1)
    first, second = claimed(disk), claimed(disk)
    assert first.number != second.number
    assert quota.is_ours(first.number)
    assert quota.is_ours(second.number)
    first.close()
    third = claimed(disk)
    assert third.number == first.number
    for claim in (second, third):
        claim.close()


def test_an_administrators_numbers_are_left_alone(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdbox.host.projects._start", lambda: 7)
    first = claimed(disk)
    first.close()
    (tmp_path / "projects").write_text(f"# mine\n{first.number}:/srv/a:b\n")
    (tmp_path / "projid").write_text(f"a:{first.number + 1}\nbad\n")
    others = {str(tmp_path / "projects"): 0, str(tmp_path / "projid"): 1}
    monkeypatch.setattr("sdbox.host.projects._OTHERS", others)
    second = claimed(disk)
    second.close()
    assert second.number == first.number + 2


# --- however a job is started


@pytest.mark.parametrize("unit_type", ["service"])
def test_of_a_detached_job(sdbox: Sdbox, scratch: Path) -> None:
    job, place, gate = sdbox.new_id(), sdbox.directory / "report.json", scratch / "gate"
    os.mkfifo(gate)
    gate.chmod(0o666)
    script = 'head -c 40M /dev/zero > "$0"; exit 3'
    words = ("--", "sh", "-c", f"read line < {gate}; {script}", str(scratch / "file"))
    given = (f"--id={job}", *options(scratch), *words)
    started = sdbox.call("run", "--detach", *given, env={**os.environ, MARK: job})
    assert started.status == 0, started.err
    waiter = waiting(sdbox, job, f"--report={place}")
    with gate.open("r+b", buffering=0) as opened:
        opened.write(b"\n")
        waiter.communicate(timeout=SECONDS)
    account = json.loads(place.read_text())
    assert (account["reason"], account["enforcement"]["DiskMax"]) == ("disk", "quota")
    wait_until(lambda: not is_limited(scratch, project_of(scratch)))


@one_unit_type
async def test_of_a_program(sdbox: Sdbox, scratch: Path, new_id: Callable[[], str]) -> None:
    box = Box(DiskMax="16M", ScratchDirectory=str(scratch), User="nobody", WorkingDirectory="/")
    command = ["sh", "-c", 'head -c 40M /dev/zero > "$0" 2> /dev/null; exit 3', str(scratch / "a")]
    async with Launcher() as launcher:
        result = await launcher.run(command, box=box, id=new_id())
    assert (result.reason, result.enforcement["DiskMax"]) == ("disk", "quota")
    assert not is_limited(scratch, project_of(scratch))


@one_unit_type
def test_doctor_tells_where_it_is(sdbox: Sdbox, disk: Path) -> None:
    found = json.loads(sdbox.call("doctor", "--json").out)["findings"]
    (told,) = [one for one in found if one["name"] == "project quotas"]
    assert str(disk) in told["seen"].split(", ")
