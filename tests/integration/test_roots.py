"""Named roots: jobs in them, and what keeps a directory from being one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sdbox.box import Box
from sdbox.errors import LaunchFailed
from sdbox.init import private, secure
from sdbox.init.steps import StepError
from sdbox.launch.beginning import begin
from sdbox.launch.planning import caller, plan_for
from sdbox.launcher import Launcher
from tests.conftest import SECONDS
from tests.pace import times
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdbox.init.private import Private
    from tests.conftest import Outcome, Sdbox

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def roots() -> Iterator[Path]:
    """A directory for roots that is root's, as all above it. Not below /tmp, which is not."""
    place = Path(tempfile.mkdtemp(prefix="sdbox-roots-", dir="/srv"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def layers() -> Iterator[Path]:
    """A directory for layers, on a file system that takes them: an overlay itself does not."""
    with tempfile.TemporaryDirectory(prefix="sdbox-layers-", dir="/dev/shm") as place:
        yield Path(place)


def make_root(place: Path, name: str = "good") -> Path:
    """A root that tells its name."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    (place / "bin").mkdir(parents=True)
    shutil.copy(busybox, place / "bin" / "busybox")
    (place / "bin" / "sh").symlink_to("busybox")
    (place / "bin" / "cat").symlink_to("busybox")
    (place / "name").write_text(f"{name}\n")
    return place


def configured(directory: Path, **places: Path | str) -> str:
    """A configuration with these roots."""
    lines = [f'{name} = "{place}"' for name, place in places.items()]
    path = directory / "sdbox.toml"
    path.write_text("\n".join(["[roots]", *lines, ""]))
    return str(path)


def in_root(sdbox: Sdbox, configuration: str, name: str = "el7") -> Outcome:
    return sdbox.run(f"--config={configuration}", f"--root={name}", "--", "cat", "/name")


def test_a_job_in_a_named_root(sdbox: Sdbox, roots: Path) -> None:
    place = make_root(roots / "el7")
    configuration = configured(roots, el7=place)
    done = sdbox.run(
        *(f"--config={configuration}", "--root=el7", "--", "sh", "-c", "cat /name; echo /*"),
        report=True,
    )
    assert done.out == "good\n/bin /dev /name /proc /run /sys\n"
    assert done.account["box"] == {"RootDirectory": "el7"}
    assert done.account["enforcement"] == {"RootDirectory": "kernel"}


def test_a_name_that_nobody_has_configured(sdbox: Sdbox, roots: Path) -> None:
    configuration = configured(roots, el7=roots, el8=roots)
    done = in_root(sdbox, configuration, "el9")
    assert (done.status, done.out) == (125, "")
    assert done.err == f"sdbox: el9: no such root in {configuration}. There are: el7, el8\n"
    done = in_root(sdbox, configured(roots), "el9")
    assert done.status == 125
    assert 'Add el9 = "/…" to its table [roots]' in done.err


def test_a_path_is_still_what_root_says_it_is(sdbox: Sdbox, roots: Path) -> None:
    make_root(roots / "el7").chmod(0o777)
    done = sdbox.run(f"--root={roots}/el7", "--", "cat", "/name")
    assert (done.status, done.out) == (0, "good\n")
    assert sdbox.run("--root=./el7", "--", "true").status == 125


def _write_by_others(root: Path) -> None:
    root.chmod(0o757)


def _write_by_group(root: Path) -> None:
    root.chmod(0o775)


def _below_a_sticky_directory(root: Path) -> None:
    root.parent.chmod(0o1777)


def _a_users(root: Path) -> None:
    os.chown(root, 1234, 0)


def _below_a_users(root: Path) -> None:
    os.chown(root.parent, 1234, 0)


def _a_link(root: Path) -> None:
    root.rename(root.parent / "real")
    root.symlink_to("real")


def _below_a_link(root: Path) -> None:
    root.parent.rename(root.parent.parent / "real")
    root.parent.symlink_to("real")


def _a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.touch()


FAULTS: list[tuple[Callable[[Path], None], str, str]] = [
    (_write_by_others, "roots/el7 may be written to by others than root", "chmod go-w "),
    (_write_by_group, "roots/el7 may be written to by others than root", "chmod go-w "),
    (_below_a_sticky_directory, "roots may be written to by others than root", "chmod go-w "),
    (_a_users, "roots/el7 is not root's", "chown root "),
    (_below_a_users, "roots is not root's", "chown root "),
    (_a_link, "roots/el7 is a symbolic link", "Name the directory itself"),
    (_below_a_link, "roots is a symbolic link", "Name the directory itself"),
    (shutil.rmtree, "roots/el7 is not there", "[roots]"),
    (_a_file, "roots/el7 is not a directory", "[roots]"),
]
faults = pytest.mark.parametrize(
    ("spoil", "message", "remedy"), FAULTS, ids=[one[0].__name__.strip("_") for one in FAULTS]
)


@faults
@pytest.mark.parametrize("unit_type", ["scope"])
def test_what_is_no_secure_root_is_refused(
    sdbox: Sdbox, roots: Path, spoil: Callable[[Path], None], message: str, remedy: str
) -> None:
    place = make_root(roots / "roots" / "el7")
    configuration = configured(roots, el7=place)
    assert in_root(sdbox, configuration).out == "good\n"
    spoil(place)
    done = in_root(sdbox, configuration)
    assert (done.status, done.out, done.err.count("\n")) == (125, "", 1)
    assert done.err.startswith(f"sdbox: root el7: {roots}/{message}. ")
    assert remedy in done.err
    listed = sdbox.call("roots", f"--config={configuration}")
    assert listed.status == 1
    assert message in listed.out


@pytest.mark.parametrize("unit_type", ["scope"])
def test_below_a_directory_for_all(sdbox: Sdbox, roots: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        place = make_root(Path(directory) / "el7")
        done = in_root(sdbox, configured(roots, el7=place))
    assert done.status == 125
    assert done.err.startswith("sdbox: root el7: /tmp may be written to by others than root. ")


@faults
async def test_init_looks_for_itself(
    roots: Path,
    new_id: Callable[[], str],
    spoil: Callable[[Path], None],
    message: str,
    remedy: str,
) -> None:
    """What was good when the launch was planned, and is no more when the box is set up."""
    place = make_root(roots / "roots" / "el7")
    configuration = configured(roots, el7=place)
    async with Launcher() as launcher:
        plan = plan_for(
            launcher.host,
            ["cat", "/name"],
            Box(RootDirectory="el7"),
            job=new_id(),
            caller=caller(),
            configuration=configuration,
        )
        spoil(place)
        launch = begin(launcher._connected().helper, plan, (0, 1, 2))
        with pytest.raises(LaunchFailed) as caught:
            await launcher.execute(launch)
    assert caught.value.message == f"RootDirectory: {roots}/{message}"
    assert remedy in caught.value.hint


def test_the_descriptor_is_of_the_directory_itself(roots: Path) -> None:
    place = make_root(roots / "el7")
    fd = secure.open_directory(f"{place}/")
    assert os.path.samestat(os.fstat(fd), place.stat())
    os.close(fd)
    fd = secure.open_directory("/")
    assert os.path.samestat(os.fstat(fd), os.stat("/"))
    os.close(fd)


class Swapper(threading.Thread):
    """Changes two directory entries for each other, again and again, as fast as it can."""

    def __init__(self, one: Path, other: Path) -> None:
        super().__init__(daemon=True)
        self.paths = os.fsencode(one), os.fsencode(other)
        self.ended = threading.Event()
        self.times = 0

    def run(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        one, other = self.paths
        while not self.ended.is_set():
            if libc.renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE):
                raise OSError(ctypes.get_errno(), "renameat2")
            self.times += 1


@contextlib.contextmanager
def swapped(one: Path, other: Path) -> Iterator[Swapper]:
    swapper = Swapper(one, other)
    swapper.start()
    try:
        yield swapper
    finally:
        swapper.ended.set()
        swapper.join()


def rounds(least: int, enough: Callable[[], bool]) -> Iterator[None]:
    """So many, and on until there was enough: who comes when is for the scheduler to say."""
    end = time.monotonic() + SECONDS
    for number in itertools.count():
        if number >= least and enough():
            return
        assert time.monotonic() < end
        yield


def test_a_root_that_becomes_a_link_meanwhile(roots: Path) -> None:
    """It is what was looked at, or refused, and never what the link leads to."""
    place = make_root(roots / "above" / "el7")
    evil = make_root(roots / "evil" / "el7", "evil")
    evil.chmod(0o777)
    (roots / "link").symlink_to("evil")
    # Errno, or 0.
    met: set[int] = set()
    with swapped(roots / "above", roots / "link") as swapper:
        for _ in rounds(times(5000, least=500), lambda: len(met) > 1):
            try:
                fd = secure.open_directory(str(place))
            except StepError as error:
                met.add(error.number)
                continue
            name = os.open("name", os.O_RDONLY, dir_fd=fd)
            assert os.read(name, 16) == b"good\n"
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o755
            os.close(name)
            os.close(fd)
            met.add(0)
    assert swapper.times > 100
    assert met == {0, errno.ELOOP}


@pytest.mark.parametrize("unit_type", ["scope"])
def test_jobs_in_a_root_that_becomes_a_link_meanwhile(sdbox: Sdbox, roots: Path) -> None:
    place = make_root(roots / "above" / "el7")
    make_root(roots / "evil" / "el7", "evil")
    (roots / "link").symlink_to("evil")
    configuration = configured(roots, el7=place)
    done: list[Outcome] = []
    with swapped(roots / "above", roots / "link"):
        for _ in rounds(times(40, least=10), lambda: len({one.status for one in done}) > 1):
            done.append(in_root(sdbox, configuration))
    for one in done:
        if one.status == 0:
            assert one.out == "good\n"
        else:
            assert (one.status, one.out) == (125, "")
            assert "above is a symbolic link" in one.err
    assert {one.status for one in done} == {0, 125}


# What a job can do to a root, whose only program is busybox.
DEVASTATE = """
busybox touch /new /bin/new
busybox mkdir /directory
echo changed >/name
echo more >>/bin/busybox.bak
busybox chmod 700 /bin
busybox chown 12 /kept
busybox rm /bin/cat
busybox mv /bin/sh /bin/shell
busybox cat /name
busybox ls -d /new /bin/new /bin/cat /bin/shell
"""


def snapshot(root: Path) -> list[tuple[object, ...]]:
    """All there is to know of a tree, but for when it was last read."""
    found: list[tuple[object, ...]] = []
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        times_ = (status.st_mtime_ns, status.st_ctime_ns)
        found.append((path, status.st_mode, status.st_uid, status.st_gid, *times_, content))
    return found


@pytest.mark.parametrize("layer", ["tmpfs", "directory"])
def test_a_root_with_a_layer_is_written_to_and_unchanged(
    sdbox: Sdbox, roots: Path, layers: Path, layer: str
) -> None:
    place = make_root(roots / "el7")
    (place / "kept").touch()
    os.chown(place, 0, 7)
    before = snapshot(place)
    options = [
        f"--config={configured(roots, el7=place)}",
        "--root=el7",
        f"--root-overlay={layers if layer == 'directory' else layer}",
        "--private-tmp",
    ]
    done = sdbox.sh(f"busybox stat -c '%a %u %g' /; {DEVASTATE}", *options, report=True)
    assert done.out == "755 0 7\nchanged\n/bin/new\n/bin/shell\n/new\n"
    assert "No such file" in done.err
    assert done.account["enforcement"]["RootEphemeral"] == "kernel"
    assert snapshot(place) == before
    assert list(layers.iterdir()) == []
    again = sdbox.sh("cat /name", *options)
    assert again.out == "good\n"


@pytest.mark.parametrize("last", ["sdbox-private-", "tmp"])
def test_a_layer_in_another_users_directory_is_what_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """He can put something else in its place, as it is made and afterwards."""
    theirs, target = tmp_path / "theirs", tmp_path / "target"
    theirs.mkdir()
    target.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    mkdir = os.mkdir

    def slow_mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        mkdir(path, mode, dir_fd=dir_fd)
        if os.path.basename(path).startswith(last):
            (made,) = tmp_path.glob("sdbox-private-*")
            made.rename(tmp_path / "gone")
            theirs.rename(made)
            (made / "tmp").symlink_to(target)

    made: Private | None = None
    with monkeypatch.context() as patched, contextlib.suppress(StepError):
        patched.setattr("os.mkdir", slow_mkdir)
        made = private.make("RootEphemeral", str(tmp_path), "job", None)
    assert (target.stat().st_mode & 0o7777, list(target.iterdir())) == (0o700, [])
    if made is not None:
        with pytest.raises(OSError, match="Stale"):
            private.opened(made)


def test_a_private_directory_is_not_found_by_way_of_a_link(tmp_path: Path) -> None:
    made = private.make("RootEphemeral", str(tmp_path), "job", None)
    os.close(private.opened(made))
    place = Path(made[0]).parent
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    with pytest.raises(OSError, match="Too many levels"):
        private.opened(made)


def a_link(place: Path, roots: Path) -> None:
    place.symlink_to(roots)


def what_root_has_left(place: Path, roots: Path) -> None:
    roots.rename(place)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("put", [a_link, what_root_has_left])
def test_nothing_else_is_removed_in_its_place(
    tmp_path: Path, put: Callable[[Path, Path], None], full: bool
) -> None:
    """Its parent may be another user's, who can give its name to what he could not remove."""
    made = private.make("RootEphemeral", str(tmp_path), "job", None)
    place, roots = Path(made[0]).parent, tmp_path / "roots"
    place.rename(tmp_path / "moved")
    (roots / "tmp").mkdir(parents=True)
    roots.chmod(0o700)
    if full:
        (roots / "tmp/file").touch()
    put(place, roots)
    assert private.remove([made]) == made[0]
    assert private.start_removing([made]) == 0
    assert (place / "tmp/file").exists() == full
    assert (place / "tmp").is_dir()


def test_nothing_is_left_of_one_that_could_not_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = os.mkdir

    def full_mkdir(path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if path == "tmp":
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        mkdir(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr("os.mkdir", full_mkdir)
    with pytest.raises(StepError):
        private.make("RootEphemeral", str(tmp_path), "job", None)
    assert list(tmp_path.iterdir()) == []


def test_names_of_its_own_are_no_jobs_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what is moved up, who is no root, in a tree of a job's making."""
    made = private.make("RootEphemeral", str(tmp_path), "job", None)
    above = Path(made[0]).parent
    for place in ("tmp/a/b", *(f".{os.getpid()}.{number}/full" for number in range(9))):
        (above / place).mkdir(parents=True)
    monkeypatch.setattr("os.geteuid", lambda: 1)
    assert private.remove([made]) == ""
    assert list(tmp_path.iterdir()) == []


def test_it_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    made = [private.make("RootEphemeral", str(tmp_path), str(n), None) for n in range(3)]
    for path, _, _ in made[:2]:
        (Path(path) / "shut").mkdir()
        (Path(path) / "shut/file").touch()
        (Path(path) / "shut").chmod(0)
    before = os.listdir("/proc/self/fd")
    assert private.remove(made) == ""
    assert private.left(made) == ""
    assert os.listdir("/proc/self/fd") == before
    assert list(tmp_path.iterdir()) == []


def test_a_layer_goes_with_a_killed_supervisor(sdbox: Sdbox, roots: Path, layers: Path) -> None:
    place = make_root(roots / "el7")
    running = sdbox.start_sh(
        "echo x >/x; echo; read line", f"--root={place}", f"--root-overlay={layers}"
    )
    running.line()
    (above,) = layers.iterdir()
    assert above.stat().st_mode & 0o777 == 0o700
    assert (above / "tmp" / "upper" / "x").read_text() == "x\n"
    running.signal(signal.SIGKILL)
    wait_until(lambda: not any(layers.iterdir()))
    assert not (place / "x").exists()


@pytest.mark.parametrize("unit_type", ["scope"])
def test_a_layer_allows_nothing_that_the_file_system_does_not(sdbox: Sdbox, roots: Path) -> None:
    make_root(roots / "el7")
    (roots / "mounted").mkdir()
    job = [*sdbox.run_command, f"--id={sdbox.new_id()}", f"--root={roots}/mounted"]
    script = (
        f"mount -t tmpfs -o nosuid,nodev tmpfs {roots}/mounted"
        f" && cp -a {roots}/el7/. {roots}/mounted"
        f" && exec {shlex.join([*job, '--root-overlay=tmpfs', '--', 'cat', '/proc/self/mounts'])}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    root = next(line for line in done.stdout.splitlines() if line.split()[1] == "/")
    assert root.split()[2] == "overlay"
    assert {"nosuid", "nodev"} <= set(root.split()[3].split(","))


@pytest.mark.parametrize("unit_type", ["scope"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--root=/", "--root-overlay=/no/such"], "Name a directory that is there, or tmpfs"),
        (["--root=/", "--root-overlay=layers"], "neither tmpfs nor an absolute path"),
        (["--root-overlay=tmpfs"], "RootEphemeral: there is no RootDirectory for it"),
    ],
)
def test_a_layer_that_cant_be(sdbox: Sdbox, options: list[str], message: str) -> None:
    done = sdbox.run(*options, "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert message in done.err


def test_the_list(sdbox: Sdbox, roots: Path) -> None:
    good, bad = make_root(roots / "el7"), make_root(roots / "el6")
    bad.chmod(0o777)
    configuration = configured(roots, el7=good, deb12=good, el6=bad)
    done = sdbox.call("roots", f"--config={configuration}", "--json")
    assert done.status == 1
    fault = f"{bad} may be written to by others than root"
    assert json.loads(done.out) == [
        {"name": "deb12", "path": str(good), "fault": ""},
        {"name": "el6", "path": str(bad), "fault": fault},
        {"name": "el7", "path": str(good), "fault": ""},
    ]
    bad.chmod(0o755)
    assert sdbox.call("roots", f"--config={configuration}").status == 0


def test_what_condor_is_told(sdbox: Sdbox, roots: Path) -> None:
    good, bad = make_root(roots / "el7"), make_root(roots / "el6")
    bad.chmod(0o777)
    configuration = configured(roots, el7=good, deb12=good, el6=bad)
    done = sdbox.call("roots", f"--config={configuration}", "--classad")
    assert done.out == 'NamedChroot = "deb12,el7"\n-\n'
    assert done.err.startswith("sdbox: el6 is not advertised: ")
    done = sdbox.call("roots", f"--config={configured(roots)}", "--classad")
    assert (done.status, done.out) == (0, 'NamedChroot = ""\n-\n')
