"""A user's own systemd, which gives an ordinary user's jobs their units."""

from __future__ import annotations

import contextlib
import os
import socket

from sdbox.cgroup import path_of
from sdbox.errors import ManagerUnavailable
from sdbox.kernel.credentials import peer_credentials
from sdbox.record import record

_HINT = (
    "As root, `loginctl enable-linger {user}` has one run, with no login, too; or leave it to"
    " --manager none"
)
_ANSWER_SECONDS, _ANSWER_BYTES = 5.0, 4096
# Where a manager is itself, below what it has (systemd's src/core/cgroup.c).
_OWN = "/init.scope"


@record
class UserManager:
    """The socket that leads to it, `direct`ly or by a bus; the directory its units are below."""

    socket: str
    direct: bool
    cgroup_root: str


def find(hierarchy: str) -> UserManager:
    """Return how this user's manager is reached. `hierarchy` is where the cgroups are.

    By its bus, which is what systemd promises to serve; or, where the user has none, by the socket
    that systemctl uses. Raises ManagerUnavailable.
    """
    directory = runtime_directory()
    private, bus = f"{directory}/systemd/private", f"{directory}/bus"
    # Not connected to: systemd says in the journal that it was for nothing.
    if not os.path.exists(private):
        raise ManagerUnavailable(
            f"There is no systemd of this user: {private} is not there",
            hint=_HINT.format(user=user_name()),
        )
    found, manager = _first_that_listens(bus, private)
    cgroup = path_of(manager)
    if cgroup is None or not cgroup.endswith(_OWN):
        raise ManagerUnavailable(
            f"{found}: PID {manager}, which has made it, is no systemd with a cgroup of its own",
            hint="It has to be user@.service's; or leave it to --manager none",
        )
    root = hierarchy + cgroup.removesuffix(_OWN)
    if not os.path.exists(f"{root}/cgroup.controllers"):
        raise ManagerUnavailable(
            f"{root} is no cgroup of the unified hierarchy",
            hint="Boot with systemd.unified_cgroup_hierarchy=1; or leave it to --manager none",
        )
    return UserManager(socket=found, direct=found == private, cgroup_root=root)


def runtime_directory() -> str:
    """Return where the sockets of this user's manager are (pam_systemd(8))."""
    # Batch jobs often lack the variable, where the manager runs all the same.
    return os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"


def _first_that_listens(bus: str, private: str) -> tuple[str, int]:
    try:
        return bus, _listener(bus)
    except OSError:
        # There is none without dbus-user-session, and what is left of one does not listen.
        pass
    try:
        return private, _listener(private, direct=True)
    except OSError as error:
        raise ManagerUnavailable(
            f"{private}: {error.strerror}: this user's systemd is not to be reached",
            hint=_HINT.format(user=user_name()),
        ) from None


def _part_well(sock: socket.socket) -> None:
    """Authenticate before hanging up: or systemd says in the journal that it was for nothing."""
    from sdbox.dial import SASL

    sock.settimeout(_ANSWER_SECONDS)
    with contextlib.suppress(OSError):
        sock.sendall(SASL)
        answer = b""
        while b"OK " not in answer and (data := sock.recv(_ANSWER_BYTES)):
            answer = answer[-_ANSWER_BYTES:] + data


def _listener(path: str, *, direct: bool = False) -> int:
    """Return the PID of who listens at a socket: systemd, which starts a bus when that is used.

    Raises OSError, and ManagerUnavailable where it is somebody else's.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        pid, uid, _ = peer_credentials(sock)
        if uid != os.geteuid() or pid == 0:
            raise ManagerUnavailable(
                f"{path} is another user's", hint="Unset XDG_RUNTIME_DIR, or set it to one's own"
            )
        if direct:
            _part_well(sock)
    return pid


def user_name() -> str:
    """Return the name of the user that this process is, or his number."""
    from sdbox.host import users

    return users.user_name(os.geteuid())
