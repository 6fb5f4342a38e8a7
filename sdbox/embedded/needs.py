"""What the machine must have before an embedded manager can boot, each with its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sdbox.errors import ManagerUnavailable
from sdbox.record import record

OLDEST_SYSTEMD = 249
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_CGROUP_ROOT = "/sys/fs/cgroup"
_VERSION_SECONDS = 10.0


@record
class Needs:
    """What was found. `cgroup_parent` is where the manager's cgroup goes, below `cgroup_mount`."""

    systemd: str
    systemd_version: int
    cgroup_mount: str
    cgroup_parent: str


def check() -> Needs:
    """Find everything, or raise ManagerUnavailable with the remedy for what is missing first."""
    if os.geteuid() != 0:
        raise ManagerUnavailable(
            "Only root can boot the embedded manager", hint="Run the command as root"
        )
    systemd = _find_systemd()
    if shutil.which("dbus-daemon", path=PATH) is None:
        raise ManagerUnavailable(
            "dbus-daemon is not installed", hint="Install it: apt-get install dbus"
        )
    if not Path("/etc/machine-id").exists():
        raise ManagerUnavailable(
            "/etc/machine-id is missing", hint="Make one: systemd-machine-id-setup"
        )
    mount = _cgroup_mount()
    return Needs(
        systemd=systemd,
        systemd_version=_version(systemd),
        cgroup_mount=mount,
        cgroup_parent=_cgroup_parent(mount),
    )


def _find_systemd() -> str:
    for program in _SYSTEMD:
        if os.access(program, os.X_OK):
            return program
    raise ManagerUnavailable(
        "systemd is not installed", hint="Install it: apt-get install systemd dbus"
    )


def _version(systemd: str) -> int:
    text = subprocess.run(
        [systemd, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": PATH},
        timeout=_VERSION_SECONDS,
    ).stdout
    version = parse_version(text)
    if version < OLDEST_SYSTEMD:
        raise ManagerUnavailable(
            f"{systemd} is version {version}", hint=f"sdbox needs {OLDEST_SYSTEMD} or newer"
        )
    return version


def parse_version(text: str) -> int:
    """Return the number in `systemd 252 (252.38-1~deb12u1)`, or 0."""
    words = text.split(maxsplit=2)
    if len(words) < 2 or words[0] != "systemd" or not words[1].isdecimal():
        return 0
    return int(words[1])


def _cgroup_mount() -> str:
    mounts = cgroup2_mounts(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
    writable = [place for place in mounts if os.access(place, os.W_OK)]
    if writable:
        return writable[0]
    if mounts:
        raise ManagerUnavailable(
            f"The cgroup2 file system on {mounts[0]} is read-only",
            hint="Give the container a writable one: docker run --privileged --cgroupns=private",
        )
    raise ManagerUnavailable(
        "No cgroup2 file system is mounted",
        hint=f"Mount one: mount -t cgroup2 cgroup2 {_CGROUP_ROOT}",
    )


def cgroup2_mounts(mountinfo: str) -> list[str]:
    """Return where cgroup2 is mounted, /sys/fs/cgroup before its subdirectories before others."""
    places = []
    for line in mountinfo.splitlines():
        # proc_pid_mountinfo(5): the mount point is field 5, the type is the first after " - ".
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            places.append(left.split()[4])
    return sorted(places, key=lambda place: (not place.startswith(_CGROUP_ROOT), len(place)))


def _cgroup_parent(mount: str) -> str:
    """Return the cgroup of the machine's PID 1, which is a container's own, or the root.

    A container without a cgroup namespace sees the host's root, which is not its to use.
    """
    lines = Path("/proc/1/cgroup").read_text().splitlines()
    ours = next((line[3:] for line in lines if line.startswith("0::/")), "/")
    # cgroups(7): the root of all has no cgroup.type; the root of a cgroup namespace has.
    if Path(mount, "cgroup.type").exists() or ours.endswith(".scope"):
        return "/"
    return ours if Path(mount + ours).is_dir() else "/"
