"""Which places of this host lead to who starts processes outside of a box."""

from __future__ import annotations

import os

from sdbox.plan.protection import ENGINES, LOCKS, MANAGERS, OF_ROOT

# What is there if a directory leads to one. Users log in, and get theirs, at any time.
_SIGNS = {
    "/run/systemd": ("/run/systemd/private", "/run/systemd/io.systemd.Manager"),
    "/run/dbus": ("/run/dbus/system_bus_socket",),
    "/run/user": ("/run/systemd/private",),
}


def managers(*, all_of_them: bool) -> tuple[str, ...]:
    """Return those of sdbox.plan.protection's MANAGERS and ENGINES that there are, and not hidden.

    They are hidden from who is in a box himself, and may not be able to hide anything again. With
    `all_of_them`, OF_ROOT and LOCKS as well.
    """
    found = [path for path in MANAGERS if any(map(os.path.lexists, _SIGNS[path]))]
    if "/run/user" not in found and _has_entries("/run/user"):
        found.append("/run/user")
    others = (*ENGINES, *OF_ROOT, *LOCKS) if all_of_them else ENGINES
    return (*found, *filter(_is_open_to_any, others))


def _has_entries(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entries)
    except OSError:
        return False


def _is_open_to_any(path: str) -> bool:
    try:
        # What is inaccessible has no permission at all: sdbox.init.protect.
        return bool(os.lstat(path).st_mode & 0o777)
    except OSError:
        return False
