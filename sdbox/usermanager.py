"""A user's own systemd, which gives an ordinary user's jobs their units."""

from __future__ import annotations

import os
import socket
import struct

from sdbox.cgroup import path_of
from sdbox.errors import ManagerUnavailable

_HINT = (
    "As root, `loginctl enable-linger {user}` has one run, with no login, too; or leave it to"
    " --manager none"
)
_CREDENTIALS = struct.Struct("iII")
# Where a manager is itself, below what it has (systemd's src/core/cgroup.c).
_OWN = "/init.scope"


def find(hierarchy: str) -> tuple[str, str]:
    """Return the bus of this user's manager, and the directory that its units are below.

    `hierarchy` is where the cgroups are. Raises ManagerUnavailable.
    """
    directory = runtime_directory()
    private, bus = f"{directory}/systemd/private", f"{directory}/bus"
    # Not connected to: systemd says in the journal that it was for nothing.
    if not os.path.exists(private):
        raise ManagerUnavailable(
            f"There is no systemd of this user: {private} is not there",
            hint=_HINT.format(user=user_name()),
        )
    manager = _listener(bus)
    cgroup = path_of(manager)
    if cgroup is None or not cgroup.endswith(_OWN):
        raise ManagerUnavailable(
            f"{bus}: PID {manager}, which has made it, is no systemd with a cgroup of its own",
            hint="It has to be user@.service's; or leave it to --manager none",
        )
    root = hierarchy + cgroup.removesuffix(_OWN)
    if not os.path.exists(f"{root}/cgroup.controllers"):
        raise ManagerUnavailable(
            f"{root} is no cgroup of the unified hierarchy",
            hint="Boot with systemd.unified_cgroup_hierarchy=1; or leave it to --manager none",
        )
    return bus, root


def runtime_directory() -> str:
    """Return where the sockets of this user's manager are (pam_systemd(8))."""
    # Batch jobs often lack the variable, where the manager runs all the same.
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def _listener(path: str) -> int:
    """Return the PID of who listens at a user's bus: systemd, which starts that when it is used."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(path)
        except OSError as error:
            raise ManagerUnavailable(
                f"{path}: {error.strerror}: this user's systemd has no bus",
                hint="Install dbus-user-session, or leave it to --manager none",
            ) from None
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    if uid != os.geteuid() or pid == 0:
        raise ManagerUnavailable(
            f"{path} is another user's", hint="Unset XDG_RUNTIME_DIR, or set it to one's own"
        )
    return int(pid)


def user_name() -> str:
    """Return the name of the user that this process is, or his number."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
