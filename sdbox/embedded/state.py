"""Where the embedded manager is: its state file, and what follows from it.

On the path of every `sdbox run` in a container, so it costs a file and two looks at /proc.
"""

from __future__ import annotations

import os

from sdbox.errors import ManagerUnavailable
from sdbox.record import record

DIRECTORY = "/run/sdbox"
NAME = "embedded"
LAUNCH_CGROUP = "launch"
_LARGEST = 4096


@record
class Embedded:
    """A running manager, as the caller's /proc sees it.

    `start_time` is /proc/PID/stat's, `pid_namespace` that of whoever booted it, `since` seconds
    of the wall clock, `cgroup_mount` the machine's cgroup2 mount and `cgroup` the manager's own
    root below it.
    """

    name: str
    directory: str
    pid: int
    start_time: int
    boot_id: str
    pid_namespace: int
    since: int
    systemd_version: int
    cgroup_mount: str
    cgroup: str

    @property
    def root(self) -> str:
        """The manager's root directory."""
        return f"/proc/{self.pid}/root"

    @property
    def bus_socket(self) -> str:
        """The manager's D-Bus socket."""
        return f"{self.root}/run/dbus/system_bus_socket"

    @property
    def cgroup_root(self) -> str:
        """The manager's cgroup tree, in the machine's cgroup2 mount: ControlGroup= is below it."""
        return self.cgroup_mount + self.cgroup

    @property
    def launch_cgroup(self) -> str:
        """A cgroup of the manager's tree but no unit's, for what comes from outside.

        Where the cgroup2 mount has `nsdelegate`, as a booted systemd sets it, the kernel lets the
        manager move into a scope only what is in its own tree already (cgroups(7)).
        """
        return f"{self.cgroup_root}/{LAUNCH_CGROUP}"

    @property
    def state_file(self) -> str:
        """The file that says where the manager is."""
        return f"{self.directory}/{self.name}.state"

    def alive(self) -> bool:
        """Tell whether the manager still runs: to be asked again after its PID was used."""
        return _start_time(self.pid) == self.start_time

    def open_pidfd(self) -> int:
        """Return a pid file descriptor of the manager. ManagerUnavailable if it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise self._gone() from None
        if not self.alive():
            os.close(pidfd)
            raise self._gone()
        return pidfd

    def _gone(self) -> ManagerUnavailable:
        return ManagerUnavailable(
            f"The embedded manager (PID {self.pid}) has ended",
            hint="`sdbox embedded start` boots a new one",
        )


def find(*, name: str = NAME, directory: str = DIRECTORY) -> Embedded | None:
    """Return the running embedded manager; None where there is none, or none within reach."""
    manager = last(name=name, directory=directory)
    return manager if manager is not None and manager.alive() else None


def last(*, name: str, directory: str) -> Embedded | None:
    """Return the last manager that was booted here, if by this kernel and in this PID namespace."""
    try:
        text = _read_own(f"{directory}/{name}.state")
    except OSError:
        return None
    manager = _parse(text, name, directory)
    if manager is None or manager.boot_id != boot_id():
        return None
    return manager if manager.pid_namespace == pid_namespace() else None


def write(manager: Embedded) -> None:
    """Write the state file, so that a reader sees all of it or nothing."""
    lines = (f"{field}={getattr(manager, field)}\n" for field in _FIELDS)
    temporary = f"{manager.state_file}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write("".join(lines))
    os.rename(temporary, manager.state_file)


def start_time(pid: int) -> int:
    """Return the start time of a process in clock ticks since the machine's boot."""
    ticks = _start_time(pid)
    if ticks is None:
        raise ProcessLookupError(pid)
    return ticks


def boot_id() -> str:
    """Return what tells this boot of the kernel from any other."""
    return _read("/proc/sys/kernel/random/boot_id").strip()


def pid_namespace() -> int:
    """Return the number of the caller's PID namespace."""
    return os.stat("/proc/self/ns/pid").st_ino


_NUMBERS = ("pid", "start_time", "pid_namespace", "since", "systemd_version")
_TEXTS = ("boot_id", "cgroup_mount", "cgroup")
_FIELDS = dict.fromkeys(_NUMBERS, int) | dict.fromkeys(_TEXTS, str)


def _parse(text: str, name: str, directory: str) -> Embedded | None:
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        typed = {key: convert(values[key]) for key, convert in _FIELDS.items()}
    except (KeyError, ValueError):
        return None
    return Embedded(name=name, directory=directory, **typed)  # type: ignore[arg-type]


def _start_time(pid: int) -> int | None:
    """Return a process's start time, or None if it is gone or a zombie."""
    try:
        stat = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in parentheses, may hold anything. See proc_pid_stat(5): field 3 is the state.
    after_command = stat.rpartition(")")[2].split()
    return None if after_command[0] in "ZX" else int(after_command[19])


def _read(file: str) -> str:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LARGEST).decode(errors="replace")
    finally:
        os.close(fd)


def _read_own(file: str) -> str:
    """Read a file that is the caller's own; any other is treated as not there."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            raise PermissionError(file)
        return os.read(fd, _LARGEST).decode("ascii", errors="replace")
    finally:
        os.close(fd)
