"""A job's scratch directory, and what of its own it has there and in memory."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.errors import LaunchFailed
from sdbox.init import scratch as of_init
from sdbox.init.steps import StepError
from sdbox.launcher import Launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Sdbox

NOBODY = pwd.getpwnam("nobody")
MIB = 1 << 20


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A scratch directory, as a scheduler makes it for a job of nobody's."""
    above = Path(tempfile.mkdtemp(prefix="sdbox-scratch-", dir="/srv"))
    above.chmod(0o755)
    place = above / "dir_1"
    place.mkdir(mode=0o755)
    os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
    yield place
    shutil.rmtree(above)


def as_nobody(scratch: Path, *places: str) -> list[str]:
    under = [f"--mount-under-scratch={','.join(places)}"] if places else []
    return ["--user=nobody", f"--scratch={scratch}", *under, "--chdir=/"]


def test_what_is_written_lands_in_the_scratch_directory(sdbox: Sdbox, scratch: Path) -> None:
    script = "ls -A /tmp /var/tmp; touch /tmp/a /var/tmp/b; stat -c %U /tmp /tmp/a"
    done = sdbox.sh(script, *as_nobody(scratch, "/tmp", "/var/tmp"), report=True)
    assert (done.status, done.err) == (0, "")
    assert done.out == "/tmp:\n\n/var/tmp:\nnobody\nnobody\n"
    # It stays there: whoever has made the scratch directory removes it, with all in it.
    assert (scratch / "tmp/a").owner() == (scratch / "var/tmp/b").owner() == "nobody"
    assert done.account["enforcement"]["MountUnderScratch"] == "kernel"


def test_a_private_tmp_is_there_as_well(sdbox: Sdbox, scratch: Path) -> None:
    done = sdbox.sh("touch /tmp/a /var/tmp/b", *as_nobody(scratch), "--private-tmp")
    assert (done.status, done.err) == (0, "")
    assert (scratch / "tmp/a").exists()
    assert (scratch / "var/tmp/b").exists()


def test_any_directory_can_be_there(sdbox: Sdbox, scratch: Path) -> None:
    done = sdbox.sh("touch /opt/a; ls -A /opt", *as_nobody(scratch, "/opt"))
    assert done.out == "a\n"
    assert (scratch / "opt/a").exists()


def test_two_jobs_have_each_their_own(sdbox: Sdbox, scratch: Path) -> None:
    other = scratch.parent / "dir_2"
    other.mkdir()
    os.chown(other, NOBODY.pw_uid, NOBODY.pw_gid)
    places = ("/tmp", "/var/tmp", "/dev/shm")
    script = f"for d in {' '.join(places)}; do ls -A $d; touch $d/$0; done; echo up; read line"
    jobs = [
        sdbox.start(
            *as_nobody(place), "--private-tmp", "--private-shm", "--", "sh", "-c", script, n
        )
        for place, n in ((scratch, "one"), (other, "two"))
    ]
    assert [job.line() for job in jobs] == ["up", "up"]
    for place in places:
        assert not {"one", "two"} & set(os.listdir(place)), "nor has the machine"
    for job in jobs:
        job.send(b"\n")
        assert job.end().status == 0
    assert [path.name for path in scratch.rglob("???") if path.name != "tmp"] == [
        "var",
        "one",
        "one",
    ]


@pytest.mark.parametrize(("mode", "seen"), [(0o755, "700"), (0o700, "1777")])
def test_nobody_else_comes_there(sdbox: Sdbox, scratch: Path, mode: int, seen: str) -> None:
    scratch.chmod(mode)
    done = sdbox.sh("stat -c %a /tmp", *as_nobody(scratch, "/tmp"))
    assert (done.out, done.err) == (f"{seen}\n", "")
    assert stat.S_IMODE((scratch / "tmp").stat().st_mode) == int(seen, 8)


def test_what_is_there_already_is_taken(sdbox: Sdbox, scratch: Path) -> None:
    """As for a second command of the same job."""
    script = "cat /tmp/file; stat -c %a /tmp; echo seen > /tmp/file"
    (scratch / "tmp").mkdir(mode=0o750)
    os.chown(scratch / "tmp", NOBODY.pw_uid, NOBODY.pw_gid)
    (scratch / "tmp/file").write_text("old\n")
    os.chown(scratch / "tmp/file", NOBODY.pw_uid, NOBODY.pw_gid)
    assert sdbox.sh(script, *as_nobody(scratch, "/tmp")).out == "old\n750\n"
    assert sdbox.sh(script, *as_nobody(scratch, "/tmp")).out == "seen\n750\n"


def test_a_job_of_roots(sdbox: Sdbox, scratch: Path) -> None:
    os.chown(scratch, 0, 0)
    options = (f"--scratch={scratch}", "--mount-under-scratch=/tmp", "--chdir=/")
    done = sdbox.sh("id -u; touch /tmp/a", *options)
    assert (done.out, done.err) == ("0\n", "")
    assert (scratch / "tmp/a").owner() == "root"


def test_devices_and_other_users_rights_are_not_to_be_had_there(
    sdbox: Sdbox, scratch: Path
) -> None:
    done = sdbox.sh("grep ' /tmp ' /proc/self/mountinfo", *as_nobody(scratch, "/tmp"))
    assert "nosuid,nodev" in done.out.split()[5]


async def test_a_launcher_keeps_no_descriptor(scratch: Path, new_id: Callable[[], str]) -> None:
    """Not of a job that ends, nor of one that does not start."""
    box = Box(User="nobody", ScratchDirectory=scratch, PrivateTmp=True, DiskMax="1G")
    async with Launcher() as launcher:
        await launcher.run(["true"], box=box, id=new_id())
        before = sorted(os.listdir("/proc/self/fd"))
        assert (await launcher.run(["true"], box=box, id=new_id())).exit_code == 0
        with pytest.raises(LaunchFailed):
            await launcher.run(["/nonexistent"], box=box, id=new_id())
        assert sorted(os.listdir("/proc/self/fd")) == before


# --- the scratch directory is its user's, who may put anything there


def link(place: Path) -> None:
    place.symlink_to("/etc")


def link_below(place: Path) -> None:
    place.parent.rmdir()
    place.parent.symlink_to("/etc")


def a_file(place: Path) -> None:
    place.write_text("")


def somebody_elses(place: Path) -> None:
    place.mkdir()
    os.chown(place, 1, 1)


def a_pipe(place: Path) -> None:
    os.mkfifo(place)


@pytest.mark.parametrize("put", [link, link_below, a_file, somebody_elses, a_pipe])
def test_hostile_content_is_refused(sdbox: Sdbox, scratch: Path, put: object) -> None:
    assert callable(put)
    (scratch / "var").mkdir()
    put(scratch / "var/tmp")
    before = sorted(os.listdir("/etc")), os.stat("/etc").st_mode
    done = sdbox.run(*as_nobody(scratch, "/var/tmp"), "--", "true")
    assert done.status == 125
    assert done.err.startswith(f"sdbox: MountUnderScratch: '{scratch}/var")
    assert done.err.count("\n") == 1
    assert (sorted(os.listdir("/etc")), os.stat("/etc").st_mode) == before


def test_a_link_in_the_place_of_the_scratch_directory(sdbox: Sdbox, scratch: Path) -> None:
    alias = scratch.parent / "alias"
    alias.symlink_to(scratch)
    done = sdbox.run("--user=nobody", f"--scratch={alias}", "--", "true")
    assert done.status == 125
    assert "not a link to it" in done.err
    # What is above it is not the job's: a scheduler's directory may be on another disk.
    (scratch.parent.parent / f"{scratch.parent.name}-alias").symlink_to(scratch.parent)
    try:
        above = f"{scratch.parent}-alias/{scratch.name}"
        done = sdbox.run("--user=nobody", f"--scratch={above}", "--chdir=/", "--", "true")
        assert (done.status, done.err) == (0, "")
    finally:
        Path(f"{scratch.parent}-alias").unlink()


@pytest.mark.parametrize("owner", [1, NOBODY.pw_uid])
def test_whose_scratch_directory_it_is(sdbox: Sdbox, scratch: Path, owner: int) -> None:
    os.chown(scratch, owner, -1)
    done = sdbox.run(*as_nobody(scratch), "--", "true")
    if owner == NOBODY.pw_uid:
        assert (done.status, done.err) == (0, "")
    else:
        assert done.status == 125
        assert done.err.endswith("It must belong to the job's user, or to root\n")


def test_one_of_roots_is_not_to_be_reached_by_what_is_the_users(
    sdbox: Sdbox, scratch: Path
) -> None:
    """With a link on the way, any directory of root's could be meant."""
    target = scratch.parent / "roots"
    (target / "dir").mkdir(parents=True)
    (scratch / "way").symlink_to(target)
    place = scratch / "way/dir"
    options = ("--user=nobody", f"--scratch={place}", "--private-tmp", "--chdir=/")
    done = sdbox.run(*options, "--", "true")
    assert done.status == 125
    assert done.err == f"sdbox: ScratchDirectory: {scratch} is not root's. chown root {scratch}\n"
    assert list((target / "dir").iterdir()) == []
    # In a directory of root's own it may be.
    options = ("--user=nobody", f"--scratch={target}/dir", "--private-tmp", "--chdir=/")
    assert sdbox.run(*options, "--", "true").status == 0
    assert (target / "dir/tmp").owner() == "nobody"


def test_one_that_is_not_there(sdbox: Sdbox) -> None:
    done = sdbox.run("--scratch=/srv/nonexistent", "--", "true")
    assert done.status == 125
    assert done.err.startswith("sdbox: ScratchDirectory: '/srv/nonexistent': No such file")


@pytest.mark.parametrize("with_bind", [False, True])
def test_a_link_in_it_does_not_lead_a_mount_astray(
    sdbox: Sdbox, scratch: Path, tmp_path: Path, with_bind: bool
) -> None:
    """What init has to make for a mount below the job's directories, it makes only in there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (scratch / "tmp").mkdir()
    (scratch / "tmp/link").symlink_to(outside)
    (scratch / "link").symlink_to(outside)
    for name in ("tmp", "tmp/link", "link"):
        os.chown(scratch / name, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    place = f"{scratch}/link/new" if with_bind else "/tmp/link/new"
    done = sdbox.run(*as_nobody(scratch, "/tmp"), f"--bind=/etc:{place}", "--", "ls", f"{place}/")
    assert list(outside.iterdir()) == []
    assert done.status != 0


def mount_below(scratch: Path) -> None:
    """What init does for its /tmp."""
    fd = of_init.opened(directory=str(scratch), uid=NOBODY.pw_uid)
    try:
        user = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}
        os.close(of_init.below(fd, directory=str(scratch), place="/tmp", **user))
    finally:
        os.close(fd)


def test_a_directory_swapped_between_its_making_and_its_opening(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may be quicker than init; then what is opened is refused."""
    mkdir = os.mkdir

    def slow_mkdir(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        (scratch / name).rename(scratch / "gone")
        (scratch / name).symlink_to("/etc")

    monkeypatch.setattr("os.mkdir", slow_mkdir)
    mode = os.stat("/etc").st_mode
    with pytest.raises(StepError) as caught:
        mount_below(scratch)
    assert (caught.value.name, caught.value.path) == ("MountUnderScratch", f"{scratch}/tmp")
    assert (os.stat("/etc").st_mode, os.stat("/etc").st_uid) == (mode, 0)


def test_all_is_in_one_scratch_directory(scratch: Path) -> None:
    """Whatever has its path by the time that something is made in it."""
    fd = of_init.opened(directory=str(scratch), uid=NOBODY.pw_uid)
    scratch.rename(scratch.parent / "moved")
    scratch.mkdir()
    os.chown(scratch, NOBODY.pw_uid, NOBODY.pw_gid)
    user = {"uid": NOBODY.pw_uid, "gid": NOBODY.pw_gid}
    for tree in (
        of_init.tree(fd),
        of_init.below(fd, directory=str(scratch), place="/tmp", **user),
    ):
        os.close(tree)
    os.close(fd)
    assert list(scratch.iterdir()) == []
    assert (scratch.parent / "moved/tmp").owner() == "nobody"


def test_what_root_has_left_there_does_not_become_the_users(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user, in whose directory it is, can give it the name of what is being made."""
    (scratch / "roots").mkdir(mode=0o700)
    (scratch / "roots/secret").touch()
    mkdir = os.mkdir

    def slow_mkdir(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        made = (scratch / name).stat()
        assert (made.st_uid, made.st_gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
        (scratch / name).rmdir()
        (scratch / "roots").rename(scratch / name)

    monkeypatch.setattr("os.mkdir", slow_mkdir)
    with pytest.raises(StepError):
        mount_below(scratch)
    status = (scratch / "tmp").stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o700)


# --- where it is seen


def test_it_is_seen_in_its_place_though_tmp_is_another(sdbox: Sdbox, scratch: Path) -> None:
    """A scheduler may have its directories below /tmp itself."""
    with tempfile.TemporaryDirectory(prefix="sdbox-scratch-", dir="/tmp") as above:
        Path(above).chmod(0o755)
        place = Path(above, "dir_1")
        place.mkdir()
        (place / "input").write_text("data")
        os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
        script = f"cat {place}/input; ls -A /tmp; pwd"
        options = ["--user=nobody", f"--scratch={place}", "--mount-under-scratch=/tmp"]
        done = sdbox.sh(script, *options, cwd=place)
    assert done.err == ""
    assert done.out == f"data{Path(above).name}\n{place}\n"


def test_it_is_seen_in_a_root(sdbox: Sdbox, scratch: Path, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("sh", "cat", "touch"):
        (root / "bin" / name).symlink_to("busybox")
    for place in (tmp_path.parent, tmp_path, root, root / "bin"):
        place.chmod(0o755)
    (scratch / "input").write_text("data")
    os.chown(scratch, 65534, -1)
    done = sdbox.sh(
        f"cat {scratch}/input; touch /tmp/a {scratch}/b",
        f"--root={root}",
        "--user=65534",
        f"--scratch={scratch}",
        "--private-tmp",
    )
    assert (done.out, done.err) == ("data", "")
    assert (scratch / "tmp/a").exists()
    assert (scratch / "b").exists()


def test_what_is_bound_over_its_tmp_is_what_is_there(
    sdbox: Sdbox, scratch: Path, tmp_path: Path
) -> None:
    """And what is bound below it."""
    for name in ("over/below", "below"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "below/file").touch()
    binds = (f"--bind={tmp_path}/over:/tmp", f"--bind={tmp_path}/below:/tmp/below")
    done = sdbox.run(*as_nobody(scratch, "/tmp"), *binds, "--", "ls", "/tmp", "/tmp/below")
    assert (done.out, done.err) == ("/tmp:\nbelow\n\n/tmp/below:\nfile\n", "")


# --- in memory


def test_a_tmp_of_a_size(sdbox: Sdbox) -> None:
    """One file system: so much is for both directories together."""
    script = (
        "df --output=fstype,size -k /tmp /var/tmp | tail -n 2; stat -c %a /tmp /var/tmp;"
        " head -c 6M /dev/zero > /tmp/a; ls -A /var/tmp; head -c 6M /dev/zero > /var/tmp/b;"
        " stat -c %s /tmp/a; cut -d' ' -f5 /proc/self/mountinfo | grep -cx /"
    )
    done = sdbox.sh(script, "--tmp-size=10M", report=True)
    *sizes, first, second, written, mounts = done.out.split()
    assert sizes == ["tmpfs", "10240"] * 2
    # Of the file system's own way in, nothing is left.
    assert (first, second, written, mounts) == ("1777", "1777", str(6 * MIB), "1")
    assert "No space left on device" in done.err
    assert done.account["enforcement"] == {"PrivateTmpSize": "kernel"}


def test_a_tmp_of_a_size_in_a_root_and_for_a_user(sdbox: Sdbox, tmp_path: Path) -> None:
    options = ("--tmp-size=1M", "--user=nobody", "--chdir=/tmp")
    done = sdbox.sh("touch a; ls -A /tmp", *options)
    assert (done.out, done.err) == ("a\n", "")


def test_shared_memory_of_its_own(sdbox: Sdbox) -> None:
    script = "ls -A /dev/shm; stat -fc %T /dev/shm; stat -c '%a %u' /dev/shm"
    assert sdbox.sh(script, "--private-shm").out == "tmpfs\n1777 0\n"


@pytest.mark.parametrize(
    ("said", "options", "size", "mode"),
    [
        ("", "rw,nodev,relatime", None, "755"),
        (":size=1M,mode=1777,noexec", "rw,nodev,noexec,relatime", 1024, "1777"),
        (":ro,nosuid,dev", "ro,nosuid,relatime", None, "755"),
    ],
)
def test_a_directory_in_memory(
    sdbox: Sdbox, tmp_path: Path, said: str, options: str, size: int | None, mode: str
) -> None:
    """With systemd's syntax, and as systemd 252 does it."""
    place = tmp_path / "with space"
    place.mkdir()
    (place / "hidden").touch()
    script = f"ls -A '{place}'; stat -c %a '{place}'; grep with /proc/self/mountinfo"
    done = sdbox.sh(script, f"--tmpfs={place}{said}")
    found_mode, line = done.out.splitlines()
    before, after = line.split(" - ")
    assert (found_mode, before.split()[5]) == (mode, options)
    found = dict(item.partition("=")[::2] for item in after.split()[2].split(","))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    assert int(found["size"][:-1]) == pytest.approx(size or memory / 10, rel=0.01)
    assert (place / "hidden").exists()


def test_a_bind_into_a_read_only_directory_in_memory(sdbox: Sdbox, tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from/file").write_text("bound")
    place = tmp_path / "empty"
    done = sdbox.sh(
        f"cat {place}/some/where/file; touch {place}/x || touch {place}/some/where/y",
        f"--tmpfs={place}:ro",
        f"--bind={tmp_path}/from:{place}/some/where",
    )
    assert done.out == "bound"
    assert "Read-only file system" in done.err
    assert (tmp_path / "from/y").exists()
