"""Users in the host's databases: whose credentials a payload gets, and what one is called."""

from __future__ import annotations

import os

from sdbox.errors import Unenforceable
from sdbox.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@record
class Credentials:
    """Numbers to become, and the variables that go with a user. `uid` is None for Group= alone."""

    uid: int | None
    gid: int
    groups: tuple[int, ...]
    home: str
    environment: Mapping[str, str]


def look_up(user: str | None, group: str | None) -> Credentials | None:
    """Return the credentials for User= and Group=, names or numbers; None where none is given."""
    if user is not None:
        return _of_user(user, None if group is None else _gid(group))
    return None if group is None else _of_group(_gid(group))


def user_name(uid: int) -> str:
    """Return a user's name, or the number of one that has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _of_group(gid: int) -> Credentials:
    home = os.environ.get("HOME", "/")
    return Credentials(uid=None, gid=gid, groups=tuple(os.getgroups()), home=home, environment={})


def _of_user(user: str, gid: int | None) -> Credentials:
    import pwd

    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        raise Unenforceable(
            f"User={user}: no such user", hint="Give a user that `getent passwd` knows"
        ) from None
    gid = entry.pw_gid if gid is None else gid
    # What systemd.exec(5) sets with User=.
    variables = {
        "HOME": entry.pw_dir,
        "USER": entry.pw_name,
        "LOGNAME": entry.pw_name,
        "SHELL": entry.pw_shell or "/bin/sh",
    }
    return Credentials(
        uid=entry.pw_uid,
        gid=gid,
        groups=tuple(os.getgrouplist(entry.pw_name, gid)),
        home=entry.pw_dir,
        environment=variables,
    )


def _gid(group: str) -> int:
    import grp

    try:
        return grp.getgrgid(int(group)).gr_gid if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise Unenforceable(
            f"Group={group}: no such group", hint="Give a group that `getent group` knows"
        ) from None
