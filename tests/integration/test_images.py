"""Images of file systems, mounted in a job's box: whose they must be, and that nothing stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Sdbox

# An administrator's programs are not on every PATH.
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
_PROGRAMS = {"ext4": ("mke2fs", "-q", "-t", "ext4", "-d"), "squashfs": ("mksquashfs",)}


@pytest.fixture(params=["scope", "service"])
def unit_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def images() -> Iterator[Path]:
    """A directory for images that is root's, as all above it. Not below /tmp, which is not."""
    place = Path(tempfile.mkdtemp(prefix="sdbox-images-", dir="/srv"))
    place.chmod(0o755)
    yield place
    # Whatever has become of the test: no image is in use any more.
    wait_until(lambda: in_use(place) == [])
    shutil.rmtree(place)


def in_use(place: Path) -> list[str]:
    """The files of a directory that loop devices stand for."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return [text for file in files if (text := _text(file)).startswith(str(place))]


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def make(images: Path, kind: str = "ext4") -> Path:
    """An image with a file in it, and a device node."""
    if not Path("/dev/loop-control").exists():
        pytest.skip("this machine has no loop devices")
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {kind}")
    program = shutil.which(_PROGRAMS[kind][0], path=PATH)
    if program is None:
        pytest.skip(f"{_PROGRAMS[kind][0]} is not installed")
    content = images / "content"
    content.mkdir(exist_ok=True)
    (content / "file").write_text(kind)
    if not (content / "null").exists():
        os.mknod(content / "null", 0o020666, os.makedev(1, 3))
    image = images / f"{kind}.img"
    more = [str(image), "4M"] if kind == "ext4" else [str(image), "-quiet", "-no-progress"]
    order = [*_PROGRAMS[kind][1:], str(content), *more]
    subprocess.run([program, *order], check=True, capture_output=True)
    return image


@pytest.mark.parametrize("kind", _PROGRAMS)
def test_an_image_is_seen_and_not_written_to(sdbox: Sdbox, images: Path, kind: str) -> None:
    image, before = make(images, kind), in_use(Path("/"))
    content = image.read_bytes()
    script = (
        "cat $0/file; grep $0 /proc/self/mountinfo; echo x > $0/null; touch $0/x; "
        "mount -o remount,rw $0 2>/dev/null && touch $0/y"
    )
    options = (f"--image={image}:{images}/at", "--user=nobody", "--chdir=/")
    done = sdbox.run(*options, "--", "sh", "-c", script, f"{images}/at", report=True)
    assert done.out.startswith(kind), done.err
    assert done.out.split()[5] == "ro,nosuid,nodev,relatime"
    assert "Permission denied" in done.err
    assert "Read-only file system" in done.err
    assert done.account["enforcement"]["MountImages"] == "kernel"
    wait_until(lambda: in_use(Path("/")) == before)
    assert image.read_bytes() == content
    assert list((images / "at").iterdir()) == [], "it was in the job's sight only"


def test_two_images_in_a_root(sdbox: Sdbox, images: Path, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    image = make(images)
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/cat").symlink_to("busybox")
    options = (f"--root={root}", f"--image={image}:/a", f"--image={image}:/b/c")
    done = sdbox.run(*options, "--", "cat", "/a/file", "/b/c/file")
    assert (done.out, done.err) == ("ext4ext4", "")


def test_it_goes_with_a_job_that_is_killed(sdbox: Sdbox, images: Path) -> None:
    image = make(images)
    job = sdbox.start_sh("echo up; read line", f"--image={image}:{images}/at")
    assert job.line() == "up"
    assert len(in_use(images)) == 1
    job.process.kill()
    job.process.wait()
    wait_until(lambda: in_use(images) == [])


def test_one_that_may_be_missing(sdbox: Sdbox, images: Path) -> None:
    assert sdbox.run(f"--image=-{images}/none:{images}/at", "--", "true").status == 0
    done = sdbox.run(f"--image={images}/none:{images}/at", "--", "true")
    assert done.status == 125
    assert done.err == (
        f"sdbox: MountImages: {images}/none is not there. Make it, or name another\n"
    )


def _a_users(image: Path) -> None:
    os.chown(image, 1234, 0)


def _below_a_users(image: Path) -> None:
    os.chown(image.parent, 1234, 0)


def _writable(image: Path) -> None:
    image.chmod(0o664)


def _below_a_writable(image: Path) -> None:
    image.parent.chmod(0o1777)


def _a_link(image: Path) -> None:
    image.rename(image.parent / "real")
    image.symlink_to("real")


def _a_directory(image: Path) -> None:
    image.unlink()
    image.mkdir()


def _a_pipe(image: Path) -> None:
    image.unlink()
    os.mkfifo(image)


def _no_image(image: Path) -> None:
    image.write_text("no image")


def _a_broken_one(image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[1024:1080] = os.urandom(56)
    image.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_a_users, "is not root's"),
        (_below_a_users, "is not root's"),
        (_writable, "may be written to by others than root"),
        (_below_a_writable, "may be written to by others than root"),
        (_a_link, "is a symbolic link"),
        (_a_directory, "Is a directory"),
        (_a_pipe, "Is a directory"),
        (_no_image, "It is neither a squashfs nor an ext4 image"),
        (_a_broken_one, "MountImages: '{}'"),
    ],
)
def test_what_is_not_taken(sdbox: Sdbox, images: Path, spoil: object, message: str) -> None:
    image = make(images)
    assert callable(spoil)
    spoil(image)
    done = sdbox.run(f"--image={image}:{images}/at", "--", "echo", "ran")
    images.chmod(0o755)
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith("sdbox: MountImages: ")
    assert message.format(image) in done.err
    assert done.err.count("\n") == 1
    wait_until(lambda: in_use(images) == [])


# A file system in user space, without a library: mounts it, and answers the kernel's greeting.
FUSE = """
import ctypes, os, struct, sys
fd = os.open('/dev/fuse', os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f'fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}'
if libc.mount(b'of-the-job', sys.argv[1].encode(), b'fuse.test', 6, options.encode()):
    sys.exit(os.strerror(ctypes.get_errno()))
length, opcode = struct.unpack_from('II', os.read(fd, 65536))
print(opcode, open('/proc/self/mountinfo').read().count('fuse.test'))
"""


def test_a_job_may_have_a_fuse_file_system_of_its_own(sdbox: Sdbox, tmp_path: Path) -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        pytest.skip("this machine has no /dev/fuse")
    (tmp_path / "at").mkdir()
    words = ("--", sys.executable, "-ISc", FUSE, f"{tmp_path}/at")
    done = sdbox.run("--private-shm", *words)
    # FUSE_INIT is 26: the kernel talks to it.
    assert (done.out, done.err) == ("26 1\n", "")
    assert "fuse.test" not in Path("/proc/self/mountinfo").read_text()


def test_a_box_that_may_not_open_loop_devices(sdbox: Sdbox, images: Path) -> None:
    """It is told at once, not by init, which in a scope would be in time or not."""
    options = (f"--image={make(images)}:{images}/at", "-pDevicePolicy=closed")
    done = sdbox.run(*options, "--", "true")
    assert (done.status, done.err.count("\n")) == (125, 1)
    assert "sdbox: MountImages: the box may not open /dev/char/10:237" in done.err
    rules = ("-p", "DeviceAllow=/dev/loop-control rw", "-p", "DeviceAllow=block-loop r")
    done = sdbox.run(*options, *rules, "--", "cat", f"{images}/at/file")
    assert (done.out, done.err) == ("ext4", "")
