"""The root that a tier boots: Debian's packages, a Python environment, and a disk of the two.

Each is kept by the hash of all that it is made of (`cache`). What changes from run to run, the
checkout itself, is not in it (`order`).
"""

from __future__ import annotations

import platform
import shutil
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from . import cache, debian
from .commands import APART, WITH_US, run
from .errors import TierFailed

CHECKOUT = Path(__file__).resolve().parent.parent.parent
GUEST = Path(__file__).resolve().parent / "guest"
DISK_SIZE = "4G"
ROOT_SECONDS = 1800.0
PYTHON_SECONDS = 900.0
DISK_SECONDS = 300.0

PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "linux-image-cloud-amd64",
    "bubblewrap",
    "busybox-static",
    "e2fsprogs",
    "iproute2",
    "procps",
    "python3",
    "python3-venv",
    "xfsprogs",
)
# The terminal is the order's. The rest would take processor time away from what is measured.
MASKED = (
    "serial-getty@ttyS0.service",
    "getty@tty1.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "systemd-networkd.service",
)
FILES = {
    "etc/hostname": "sdbox-test\n",
    "etc/hosts": "127.0.0.1 localhost sdbox-test\n",
    "etc/resolv.conf": "",
    # An empty one would make each boot a first boot. It is in no other way an identity.
    "etc/machine-id": "5db0c0de5db0c0de5db0c0de5db0c0de\n",
}
PROGRAMS = {
    "etc/systemd/system/test-of-sdbox.service": "sdbox-test.service",
    "usr/lib/sdbox-test/start": "start",
    "usr/lib/sdbox-test/probe": "probe",
}
# The layer's part of the root: not where sdbox's own installer puts it.
PLACE = "usr/lib/sdbox-test/python"
# The linters run where the checkout is, not in every tier.
NOT_NEEDED = ("mypy", "ruff", "types-")


@dataclass(frozen=True, kw_only=True)
class Release:
    """One of Debian's. Its Python and C library: what pip is told to fetch for."""

    python: str
    glibc: int


# systemd 257 and 252.
RELEASES = {
    "trixie": Release(python="3.13", glibc=41),
    "bookworm": Release(python="3.11", glibc=36),
}

_ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8")
_MAKE_VENV = """
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$layer/$place" "$root/$place"
chroot "$root" python3 -m venv "/$place/venv"
chroot "$root" "/$place/venv/bin/pip" install --quiet --no-index \
    --find-links="/$place/wheels" "$@"
"""
# As pip does it in the machine, and at this one's speed. What comes of it is all in `new`.
_INSTALL = """
mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$wheels" "$root/mnt"
mkdir "$root/tmp/new" "$root/tmp/work"
mount -t overlay overlay "$root/$place" \
    -o "lowerdir=$layer/$place,upperdir=$root/tmp/new,workdir=$root/tmp/work"
chroot "$root" sh -euc '"$0" install --quiet --no-index --no-deps /mnt/*.whl' "/$place/venv/bin/pip"
tar -C "$root/tmp/new" -cf "$1" .
"""
_MAKE_DISK = """
mount --bind "$layer/$place" "$root/$place"
mke2fs -q -t ext4 -E lazy_itable_init=1 -d "$root" "$1" "$2"
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """`layer` goes over `root`. `disk` is both, as a file system."""

    root: Path
    layer: Path

    def install(self, wheels: Path, place: Path) -> None:
        """Write a tar of what the wheels in a directory are, installed, in the root's PLACE."""
        script = _shell(_INSTALL, root=self.root, layer=self.layer, wheels=wheels)
        run([*script, place], seconds=PYTHON_SECONDS)

    @property
    def kernel(self) -> Path:
        return self._newest("vmlinuz")

    @property
    def initrd(self) -> Path:
        return self._newest("initrd.img")

    def disk(self) -> Path:
        """Return the disk, made at the first time."""
        debian.install("e2fsprogs")
        name = cache.key(self.root.name, self.layer.name, DISK_SIZE, _MAKE_DISK)
        return cache.entry(f"disk-{name}", self._make_disk)

    def _make_disk(self, place: Path) -> None:
        script = _shell(_MAKE_DISK, root=self.root, layer=self.layer)
        run([*script, place, DISK_SIZE], seconds=DISK_SECONDS)

    def _newest(self, name: str) -> Path:
        return sorted(self.root.glob(f"boot/{name}-*"))[-1]


def build(suite: str) -> Image:
    """Return a release's image, made anew whenever what it is made of has changed."""
    if platform.machine() != "x86_64":
        raise TierFailed("The image is known to work on x86_64 only")
    debian.install("mmdebstrap", "debian-archive-keyring", "python3-venv")
    programs = {path: (GUEST / name).read_text() for path, name in PROGRAMS.items()}
    ingredients = (suite, PACKAGES, MASKED, FILES, PLACE, programs)
    root = cache.entry(f"root-{cache.key(*ingredients)}", partial(_make_root, suite))
    return Image(root=root, layer=_layer(root, RELEASES[suite]))


def tools() -> Path:
    """Return a Python of this machine that has pip, and what builds sdbox's wheel."""
    needed = _build_requirements()
    return cache.entry(f"tools-{cache.key(needed)}", partial(_make_tools, needed)) / "bin/python"


def _make_root(suite: str, place: Path) -> None:
    options = [f"--aptopt={setting}" for setting in debian.settings()]
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", *options]
    sources = debian.sources(suite)
    run([*APART, *command, suite, place, *sources], seconds=ROOT_SECONDS)
    _configure(place)


def _configure(root: Path) -> None:
    # How this machine reaches an archive is nothing to the root.
    for name in ("apt.conf.d/99mmdebstrap", "sources.list"):
        (root / "etc/apt" / name).unlink(missing_ok=True)
    for path, text in FILES.items():
        (root / path).write_text(text)
    for path, name in PROGRAMS.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GUEST / name, root / path)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / PLACE).mkdir()
    # systemd-update-done.service(8): or each boot would bring /etc and /var up to date with /usr.
    for path in ("etc/.updated", "var/.updated"):
        (root / path).touch()


def _layer(root: Path, release: Release) -> Path:
    requirements = _requirements()
    name = cache.key(root.name, requirements, _build_requirements(), _MAKE_VENV)
    make = partial(_make_layer, tools(), root, release, requirements)
    return cache.entry(f"python-{name}", make)


def _make_layer(
    python: Path, root: Path, release: Release, requirements: list[str], place: Path
) -> None:
    # They stay: with them, pip installs without a network, as tests of installing do.
    wheels = place / PLACE / "wheels"
    wheels.mkdir(parents=True)
    download = ["pip", "download", "--quiet", "--only-binary=:all:", f"--dest={wheels}"]
    run(
        [
            *WITH_US,
            python,
            "-m",
            *download,
            *_target(release),
            *requirements,
            *_build_requirements(),
        ],
        seconds=PYTHON_SECONDS,
    )
    script = _shell(_MAKE_VENV, root=root, layer=place)
    run([*script, *requirements], seconds=PYTHON_SECONDS)


def _make_tools(needed: list[str], place: Path) -> None:
    run(["/usr/bin/python3", "-m", "venv", place], seconds=PYTHON_SECONDS)
    install = ["-m", "pip", "install", "--quiet", *needed]
    run([*WITH_US, place / "bin/python", *install], seconds=PYTHON_SECONDS)


def _target(release: Release) -> list[str]:
    """Return pip's options for wheels that the release's Python and C library can load."""
    machine = platform.machine()
    platforms = (
        f"--platform=manylinux_2_{minor}_{machine}" for minor in range(5, release.glibc + 1)
    )
    return [f"--python-version={release.python}", *platforms]


def _requirements() -> list[str]:
    project = _pyproject()["project"]
    tests = project["optional-dependencies"]["test"]
    return [*project["dependencies"], *(one for one in tests if not one.startswith(NOT_NEEDED))]


def _build_requirements() -> list[str]:
    requirements: list[str] = _pyproject()["build-system"]["requires"]
    return requirements


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def _shell(script: str, **names: Path) -> list[str | Path]:
    """Return a command for a shell script with mounts of its own; what follows are its `$@`."""
    paths = (f"{name}={path}" for name, path in names.items())
    clean = ("env", "-i", *_ENVIRONMENT, f"place={PLACE}", *paths)
    return [*APART, *clean, "sh", "-euc", script, "sh"]
