"""Where the manager is, and how it is reached."""

from __future__ import annotations

import os
import select

from sdbox.errors import ManagerGone, ManagerUnavailable
from sdbox.plan.slices import SLICE
from sdbox.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from sdbox.embedded import Embedded
    from sdbox.systemd.usermanager import UserManager

    Kind = Literal["system", "embedded", "user", "none", "nested"]
    Choice = Literal["auto", "system", "embedded", "user", "none"]

CHOICES: tuple[Choice, ...] = ("auto", "system", "embedded", "user", "none")
# Those that can be asked for jobs of others.
MANAGERS = CHOICES[:-1]

CGROUP_ROOT = "/sys/fs/cgroup"
SYSTEM_BUS = "/run/dbus/system_bus_socket"
JOURNAL = "/run/systemd/journal"
# systemd's unit_export_state_files(), since 236; journald reads them for _SYSTEMD_INVOCATION_ID=.
UNITS = "/run/systemd/units"
# sd_booted(3): the directory is there exactly when systemd is the machine's PID 1.
_BOOTED = "/run/systemd/system"


@record
class Endpoint:
    """How to reach one manager. `cgroup_root` is the directory that its units are below.

    `pid_namespace` is a process descriptor where the manager has a PID namespace of its own, and
    `launch_cgroup` where processes must be for the manager to be able to move them. `journal` is
    the directory of the journal's sockets, `units` that of systemd's links for units that are not
    inactive, where that is known. `nested` is the manager of the box that this process is
    in, by way of a socket in it; units are in its `slice`, and job ids begin with its `prefix`.
    `direct` says that `bus_socket` is systemd's own, with no bus in between.
    """

    kind: Kind
    bus_socket: str
    cgroup_root: str
    journal: str
    pid_namespace: int | None = None
    launch_cgroup: str | None = None
    units: str = ""
    slice: str = SLICE
    prefix: str = ""
    direct: bool = False

    def inside(self) -> Endpoint:
        """Return how a process in the manager's PID namespace reaches it."""
        if self.pid_namespace is None:
            return self
        root = "/proc/1/root"
        return Endpoint(
            kind=self.kind,
            bus_socket=root + SYSTEM_BUS,
            cgroup_root=self.cgroup_root,
            journal=root + JOURNAL,
            units=root + UNITS,
        )

    @property
    def has_bus(self) -> bool:
        """Whether the manager is spoken to in D-Bus."""
        return self.kind not in ("none", "nested")

    def check(self) -> None:
        """Raise ManagerGone where an embedded manager has ended."""
        if self.pid_namespace is None:
            return
        poll = select.poll()
        poll.register(self.pid_namespace, select.POLLIN)
        if poll.poll(0):
            raise ManagerGone(
                "The embedded manager has ended, and with it its jobs",
                hint="`sdbox embedded start` boots a new one",
            )

    def has_link(self, unit: str) -> bool:
        """Whether systemd's link says that a unit is not inactive. There may be none to know."""
        return os.path.lexists(f"{self.units}/invocation:{unit}")

    def close(self) -> None:
        """Let go of the descriptor."""
        if self.pid_namespace is not None:
            os.close(self.pid_namespace)


def find(choice: Choice) -> Endpoint | None:
    """Return where the chosen manager is; None where it would have to be booted first."""
    if (endpoint := _around(choice) or _chosen(choice)) is not None:
        return endpoint
    from sdbox import embedded

    manager = embedded.find()
    return None if manager is None else at_embedded(manager)


def locate(choice: Choice, *, notice: Callable[[str], None]) -> Endpoint:
    """Return where the chosen manager is; boot the embedded one where `auto` comes down to it."""
    if (endpoint := _around(choice) or _chosen(choice)) is not None:
        return endpoint
    from sdbox import embedded

    manager = embedded.find()
    if manager is None:
        manager = embedded.start()
        notice("systemd is not running here: booted the embedded manager")
    return at_embedded(manager)


def _chosen(choice: Choice) -> Endpoint | None:
    """Return how to reach the manager of a choice; None for the embedded one."""
    if choice == "auto":
        of_root: Choice = "system" if booted() else "embedded"
        choice = of_root if os.geteuid() == 0 else "user"
    if choice == "user":
        from sdbox.systemd import usermanager

        return _of_user(usermanager.find(CGROUP_ROOT), usermanager.runtime_directory())
    if choice == "none":
        return Endpoint(kind="none", bus_socket="", cgroup_root="", journal=JOURNAL)
    return _system() if choice == "system" else None


def _of_user(found: UserManager, directory: str) -> Endpoint:
    return Endpoint(
        kind="user",
        bus_socket=found.socket,
        cgroup_root=found.cgroup_root,
        journal=JOURNAL,
        units=f"{directory}/systemd/units",
        direct=found.direct,
    )


def _around(choice: Choice) -> Endpoint | None:
    """Return the way to the manager from inside a nestable box, None where this is in no box.

    A job that could start others through the manager itself would get out of its box. That it is
    in one, its cgroup tells, and nothing that the job has a say in. Raises ManagerUnavailable.
    """
    groups = _read("/proc/self/cgroup").rpartition("0::")[2].strip().split("/")
    boxes = [n for n in groups if n.startswith("sdbox-") and n.endswith((".scope", ".service"))]
    if not boxes:
        return None
    from sdbox.systemd.around import find_door

    found = find_door() if choice == "auto" else None
    if found is None:
        raise ManagerUnavailable(
            f"This process is in a box itself, {boxes[-1]}",
            hint="Call sdbox from outside of it, or start it with --nestable"
            if choice == "auto"
            else "Leave out --manager, or call sdbox from outside of it",
        )
    path, known = found
    return Endpoint(
        kind="nested",
        bus_socket=path,
        cgroup_root=known["cgroup_root"],
        journal=JOURNAL,
        slice=known["slice"],
        prefix=known["prefix"],
    )


def at_embedded(manager: Embedded) -> Endpoint:
    """Return how to reach an embedded manager."""
    return Endpoint(
        kind="embedded",
        bus_socket=manager.bus_socket,
        cgroup_root=manager.cgroup_root,
        journal=manager.root + JOURNAL,
        units=manager.root + UNITS,
        pid_namespace=manager.open_pidfd(),
        launch_cgroup=manager.launch_cgroup if _cgroups_are_delegated() else None,
    )


def booted() -> bool:
    """Tell whether systemd is this machine's PID 1."""
    return os.path.isdir(_BOOTED)


def _system() -> Endpoint:
    if not booted():
        raise ManagerUnavailable(
            "systemd is not running as this machine's PID 1",
            hint="Use --manager embedded, which needs root and the packages systemd and dbus",
        )
    if not os.path.exists(f"{CGROUP_ROOT}/cgroup.controllers"):
        raise ManagerUnavailable(
            f"{CGROUP_ROOT} is not the unified cgroup hierarchy",
            hint="Boot with systemd.unified_cgroup_hierarchy=1",
        )
    if os.geteuid() != 0:
        raise ManagerUnavailable(
            "Only root may start units in the system manager",
            hint="Run sdbox as root, or with --manager user",
        )
    return Endpoint(
        kind="system",
        bus_socket=SYSTEM_BUS,
        cgroup_root=CGROUP_ROOT,
        journal=JOURNAL,
        units=UNITS,
    )


def _cgroups_are_delegated() -> bool:
    """Tell whether cgroup namespaces bound what may be moved (cgroups(7), nsdelegate)."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as lines:
        mounts = (line.split() for line in lines)
        return any(
            kind == "cgroup2" and "nsdelegate" in options.split(",")
            for _, _, kind, options, *_ in mounts
        )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
