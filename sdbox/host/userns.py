"""Whether an ordinary user may have a user namespace here, and what forbids it."""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Below the prefix that sdbox is installed in, by the package's PREFIX/lib/python3.X/site-packages;
# and beside the package, in a checkout.
_PROFILES = (
    os.path.normpath(f"{_PACKAGE}/../../../../share/sdbox/apparmor/sdbox"),
    os.path.normpath(f"{_PACKAGE}/../packaging/apparmor/sdbox"),
)
_PROFILE = (
    "AppArmor gives them only to programs with a profile: as root, copy {profile} to"
    " /etc/apparmor.d, and `apparmor_parser -r` it"
)
# The profile is the command's, by the path that is executed.
_NO_PROFILE = (
    "AppArmor gives them only to programs with a profile, and a service's first is Python, as an"
    " ordinary user's systemd starts it: leave out --service and --detach"
)
# A switch of sysctl(8), what it says where user namespaces are forbidden, and the remedy.
_SWITCHES = (
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "As root: `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    ("user/max_user_namespaces", "0", "As root: `sysctl -w user.max_user_namespaces=10000`"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", _PROFILE),
)
_WITHOUT = "do without all that isolates"
_OTHERWISE = (
    "The container or service that this runs in may forbid it: run sdbox outside, or as root"
)


def remedy(switches: str = "/proc/sys", *, service: bool = False) -> str:
    """Return what would give an ordinary user a user namespace, or how to do without one.

    `service`: it is for a service of his.
    """
    return f"{_remedy(switches, service=service)}. Or {_WITHOUT}"


def _remedy(switches: str, *, service: bool) -> str:
    for name, forbidden, text in _SWITCHES:
        if _read(f"{switches}/{name}") == forbidden:
            chosen = _NO_PROFILE if service and text is _PROFILE else text
            return chosen.format(profile=_profile())
    return _OTHERWISE


def _profile() -> str:
    return next(filter(os.path.exists, _PROFILES), _PROFILES[0])


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def available() -> bool:
    """Try whether this user can have a user namespace, and a mount namespace in it."""
    child = os.fork()
    if child == 0:
        os._exit(_try())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _try() -> int:
    from sdbox.init import syscalls, userns
    from sdbox.init.steps import StepError

    uid, gid = os.geteuid(), os.getegid()
    try:
        userns.enter()
        userns.map_self(uid, gid)
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.make_mounts_slave()
    except (StepError, OSError):
        return 1
    return 0
