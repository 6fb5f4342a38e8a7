"""A /sys that shows the devices of the box's own network, as systemd has it since 254.

A sysfs shows those of the network in which it was mounted, whoever looks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from sdbox.init import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Mount = tuple[str, str, dict[str, Any]]

_PLACE = "/sys"
_ATTRIBUTES = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
# Mounted below another mount, or not to be bound.
_OUT_OF_REACH = (errno.ENOENT, errno.EINVAL)


def trees() -> list[tuple[Mount, int]]:
    """Return a new sysfs, and what is mounted below /sys, to be attached in this order.

    Nothing, where only root may mount one: in a user namespace, in a container that covers parts
    of its /sys. There the machine's stays.
    """
    read_only = os.statvfs(_PLACE).f_flag & os.ST_RDONLY
    attributes = _ATTRIBUTES | (syscalls.MOUNT_ATTR_RDONLY if read_only else 0)
    try:
        found = [(_PLACE, syscalls.new_mount("sysfs", attributes))]
    except PermissionError:
        return []
    with open("/proc/self/mountinfo", "rb") as lines:
        places = [_unescaped(line.split()[4]) for line in lines]
    found += _copied(dict.fromkeys(place for place in places if place.startswith(f"{_PLACE}/")))
    return [(("PrivateNetwork", place, {}), tree) for place, tree in found]


def _copied(places: dict[str, None]) -> Iterator[tuple[str, int]]:
    """Copy the mounts at these places, each with all below it."""
    for place in places:
        if any(place.startswith(f"{above}/") for above in places):
            continue
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE
        try:
            yield place, syscalls.open_tree(syscalls.AT_FDCWD, place, flags)
        except OSError as error:
            if error.errno not in _OUT_OF_REACH:
                raise


def _unescaped(field: bytes) -> str:
    # proc_pid_mountinfo(5): what would end a field is in there as \040.
    return os.fsdecode(field.decode("unicode_escape").encode("latin-1"))
