"""Which places of this host lead to who starts processes outside of a box."""

from __future__ import annotations

import os

from sdbox.protection import ENGINES, MANAGERS

# What is there if a directory leads to one; users log in, and get theirs, at any time.
_SIGNS = {
    "/run/systemd": ("/run/systemd/private", "/run/systemd/io.systemd.Manager"),
    "/run/dbus": ("/run/dbus/system_bus_socket",),
    "/run/user": ("/run/systemd/private", "/run/systemd/sessions"),
}


def managers() -> tuple[str, ...]:
    """Return those of sdbox.protection's MANAGERS and ENGINES that there are."""
    found = [
        path
        for path in MANAGERS
        if any(map(os.path.lexists, _SIGNS[path])) and not _is_covered(path)
    ]
    return (*found, *filter(os.path.lexists, ENGINES))


def _is_covered(path: str) -> bool:
    """Whether the box that this process is in has something empty there, and for good."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not os.listdir(path)
    except OSError:
        return False
