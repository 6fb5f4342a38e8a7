"""DiskMax=: how much a job has on disk, by real trees, and what becomes of one with more."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.watch.disk import DiskWatch, TooMuch, walk
from sdbox.watch.limits import Excess
from tests.conftest import MARK, SECONDS
from tests.waiting import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

MIB = 1 << 20
LIMIT = 16 * MIB
NOBODY = pwd.getpwnam("nobody").pw_uid
MESSAGE = r"Job has gone over disk limit of 16 megabytes\. Last measured usage: (\d+) megabytes\."
# Writes what brings it over the limit, and waits to be ended.
HOG = 'head -c 40M /dev/zero > "$0"; exec sleep 600'


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory that is on disk, which everybody can reach."""
    place = Path(tempfile.mkdtemp(prefix="sdbox-disk-", dir="/var/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def fill(path: Path, mebibytes: int = 1) -> Path:
    path.write_bytes(os.urandom(mebibytes * MIB))
    return path


@contextmanager
def descriptors(*places: Path) -> Iterator[list[int]]:
    fds = [os.open(place, os.O_PATH | os.O_DIRECTORY) for place in places]
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def counted(*places: Path) -> int:
    with descriptors(*places) as fds:
        return list(walk(fds))[-1]


def by_du(place: Path) -> int:
    """The same, as os.walk goes, for a tree that nobody changes."""
    paths = [place, *place.rglob("*")]
    blocks = {(s := path.lstat()).st_ino: s.st_blocks for path in paths}
    return sum(blocks.values()) * 512


def outcome(watch: DiskWatch) -> Excess | float:
    """What a walk comes to, in as many slices as this machine takes for it."""
    while (found := watch.look()) == 0.02:
        pass
    return found


# --- what is counted


def test_it_is_what_is_on_disk(tree: Path) -> None:
    fill(tree / "a", 2)
    (tree / "b/c").mkdir(parents=True)
    fill(tree / "b/c/d", 3)
    (tree / "small").write_text("x")
    with open(tree / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert counted(tree) == by_du(tree)
    assert 5 * MIB <= counted(tree) < 6 * MIB


def test_a_file_with_many_names_counts_once(tree: Path) -> None:
    (tree / "below").mkdir()
    fill(tree / "a", 2)
    for number in range(10):
        os.link(tree / "a", tree / "below" / str(number))
    assert 2 * MIB <= counted(tree) < 3 * MIB
    assert 2 * MIB <= counted(tree, tree / "below") < 3 * MIB


def test_no_link_is_followed(tree: Path, tmp_path: Path) -> None:
    fill(tmp_path / "large", 4)
    (tree / "file").symlink_to(tmp_path / "large")
    (tree / "directory").symlink_to(tmp_path)
    (tree / "loop").symlink_to(tree)
    assert counted(tree) < MIB


def test_odd_names_and_rights(tree: Path) -> None:
    for name in (b"\xff", b"new\nline", b"-rf", b" "):
        os.mkdir(os.fsencode(tree) + b"/" + name)
    fill(tree / "shut").chmod(0)
    os.mkfifo(tree / "pipe")
    (tree / " ").chmod(0)
    assert counted(tree) == by_du(tree)


def test_a_directory_that_is_replaced_by_a_link_meanwhile(tree: Path, tmp_path: Path) -> None:
    fill(tmp_path / "large", 4)
    (tree / "a").mkdir()
    with descriptors(tree) as fds:
        walking = walk(fds)
        next(walking)
        # It has read, or is about to read, that there is a directory.
        (tree / "a").rmdir()
        (tree / "a").symlink_to(tmp_path)
        assert list(walking)[-1] < MIB


def test_what_is_moved_meanwhile_counts_once(tree: Path) -> None:
    """From where the walk has been to where it has yet to go."""
    for number in range(4):
        (tree / f"d{number}").mkdir()
    fill(tree / "file", 3)
    (tree / "moving").mkdir()
    fill(tree / "moving/file", 3)
    seen = 0
    with descriptors(tree) as fds:
        for seen in walk(fds):
            for name in ("file", "moving"):
                above = [place for place in (tree, *tree.glob("d*")) if (place / name).exists()]
                for place in above:
                    (place / name).rename(tree / f"d{seen % 4}" / name)
    assert seen < 7 * MIB


def test_a_tree_that_is_too_deep_is_no_way_out(tree: Path) -> None:
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(20):
        name = "d" * 250
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(TooMuch, match="deeper than a path can be long"):
        counted(tree)
    with descriptors(tree) as fds:
        found = outcome(DiskWatch(fds, LIMIT))
    assert isinstance(found, Excess)
    assert found.message.endswith("It can't be counted: it is deeper than a path can be long.")


@pytest.mark.parametrize("mode", [0, 0o400])
def test_a_directory_that_is_shut_is_no_way_out(tree: Path, mode: int) -> None:
    """Where the watch is not root's, a job might hide its files from it."""
    (tree / "shut").mkdir()
    fill(tree / "shut/file")
    (tree / "shut").chmod(mode)
    os.chown(tree / "shut", NOBODY, -1)
    pid = os.fork()
    if pid == 0:
        try:
            os.setuid(NOBODY)
            counted(tree)
        except TooMuch as error:
            os._exit(5 if str(error) == "a directory in it is shut" else 6)
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_a_walk_goes_on_a_slice_at_a_time(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):
        (tree / str(number)).touch()
    monkeypatch.setattr("sdbox.watch.disk._SLICE_SECONDS", 0.0)
    with descriptors(tree) as fds:
        watch = DiskWatch(fds, LIMIT)
        rests = [watch.look() for _ in range(5)]
        # 300 entries are three strides, and then there is the end.
        assert rests == [0.02, 0.02, 0.02, 0.02, 0.1]
        fill(tree / "large", 20)
        monkeypatch.undo()
        found = outcome(watch)
    assert isinstance(found, Excess)
    assert (found.reason, found.ask) == ("disk", False)


def test_no_descriptor_is_left(tree: Path) -> None:
    (tree / "a/b").mkdir(parents=True)
    with descriptors(tree) as fds:
        before = os.listdir("/proc/self/fd")
        watch = DiskWatch(fds, LIMIT)
        watch.look()
        walking = walk(fds)
        next(walking)
        del walking
        assert os.listdir("/proc/self/fd") == before


# --- what becomes of a job


def hog(sdbox: Sdbox, place: str, *options: str) -> None:
    done = sdbox.run("--disk=16M", *options, "--", "sh", "-c", HOG, place, report=True)
    account = done.account
    assert done.status == -signal.SIGKILL, done.err
    assert (account["reason"], account["signal"]) == ("disk", signal.SIGKILL)
    found = re.fullmatch(MESSAGE, account["message"])
    assert found is not None, account["message"]
    assert 16 <= int(found[1]) <= 41
    assert account["enforcement"]["DiskMax"] == "watch"
    assert done.err.endswith(f"sdbox: {account['message']}\n")


@pytest.mark.parametrize("place", ["/tmp/hog", "/var/tmp/hog"])
def test_a_private_tmp_that_is_too_full(sdbox: Sdbox, place: str) -> None:
    hog(sdbox, place, "--private-tmp", "--chdir=/")


@pytest.mark.parametrize("place", ["{}/hog", "/tmp/hog"])
def test_a_scratch_directory_that_is_too_full(sdbox: Sdbox, tree: Path, place: str) -> None:
    os.chown(tree, NOBODY, -1)
    options = ("--user=nobody", f"--scratch={tree}", "--mount-under-scratch=/tmp", "--chdir=/")
    hog(sdbox, place.format(tree), *options)


def test_a_scratch_directory_that_is_moved_away_is_still_counted(sdbox: Sdbox, tree: Path) -> None:
    """It may be in a directory of the user's, or in one like /tmp, where its owner may move it."""
    place = tree / "dir_1"
    place.mkdir()
    for path in (tree, place):
        os.chown(path, NOBODY, -1)
    options = ("--disk=16M", "--user=nobody", f"--scratch={place}", "--chdir=/")
    hog_there = HOG.replace("$0", "hog")
    job = sdbox.start_sh(f"cd {place}; echo up; read line; {hog_there}", *options)
    assert job.line() == "up"
    place.rename(tree / "elsewhere")
    place.mkdir()
    job.send(b"\n")
    done = job.end()
    assert done.status == -signal.SIGKILL
    assert "disk limit" in done.err


def test_it_is_of_all_together(sdbox: Sdbox, tree: Path) -> None:
    script = "head -c 12M /dev/zero > /tmp/a; head -c 12M /dev/zero > $0/b; exec sleep 600"
    os.chown(tree, 0, 0)
    options = ("--disk=16M", f"--scratch={tree}", "--private-tmp", "--chdir=/")
    done = sdbox.run(*options, "--", "sh", "-c", script, str(tree), report=True)
    assert done.account["reason"] == "disk"


@pytest.fixture
def layers(tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Where layers over a root are made, and the options for one of 16 MB over one with a shell."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    with tempfile.TemporaryDirectory(prefix="sdbox-layers-", dir="/dev/shm") as place:
        yield Path(place), (f"--root={root}", f"--root-overlay={place}", "--disk=16M")


FILL = "busybox head -c 24000000 /dev/zero > /file; busybox sleep 600"


def test_a_layer_over_a_root_is_counted(layers: tuple[Path, tuple[str, ...]], sdbox: Sdbox) -> None:
    _, options = layers
    done = sdbox.sh(FILL, *options, report=True)
    assert done.account["reason"] == "disk", done.err


def test_a_layer_that_is_moved_away_is_still_counted(
    layers: tuple[Path, tuple[str, ...]], sdbox: Sdbox
) -> None:
    """As its user can, where it is in a directory of his."""
    place, options = layers
    job = sdbox.start_sh(f"echo up; read line; {FILL}", *options)
    assert job.line() == "up"
    (made,) = place.iterdir()
    made.rename(place / "elsewhere")
    job.send(b"\n")
    done = job.end()
    assert done.status == -signal.SIGKILL
    assert "disk limit" in done.err


def test_a_job_within_its_limit(sdbox: Sdbox) -> None:
    script = "for i in 1 2 3; do head -c 8M /dev/zero > /tmp/a; rm /tmp/a; done; exit 3"
    done = sdbox.sh(script, "--disk=16M", "--private-tmp", "--chdir=/", report=True)
    assert (done.status, done.account["reason"]) == (3, "exited")
    assert done.err == ""


def test_in_memory_it_is_the_kernels(sdbox: Sdbox) -> None:
    script = "head -c 20M /dev/zero > /tmp/a; stat -c %s /tmp/a"
    options = ("--disk=16M", "-pPrivateTmp=disconnected", "--chdir=/")
    done = sdbox.sh(script, *options, report=True)
    assert done.account["enforcement"]["DiskMax"] == "kernel"
    assert int(done.out) <= LIMIT
    assert "No space left on device" in done.err


@pytest.mark.parametrize("unit_type", ["service"])
def test_of_a_detached_job(sdbox: Sdbox, tree: Path) -> None:
    job, place, gate = sdbox.new_id(), sdbox.directory / "report.json", tree / "gate"
    os.mkfifo(gate)
    words = ("--", "sh", "-c", 'read line < "$0"; exec "$@"', str(gate), "sh", "-c", HOG, "/tmp/a")
    options = (f"--id={job}", "--disk=16M", f"--scratch={tree}", "--private-tmp", "--chdir=/")
    environment = {**os.environ, MARK: job}
    assert sdbox.call("run", "--detach", *options, *words, env=environment).status == 0
    waiter = waiting(sdbox, job, f"--report={place}")
    with gate.open("r+b", buffering=0) as opened:
        opened.write(b"\n")
        waiter.communicate(timeout=SECONDS)
    account = json.loads(place.read_text())
    assert (account["reason"], account["enforcement"]["DiskMax"]) == ("disk", "watch")
    assert re.fullmatch(MESSAGE, account["message"])
