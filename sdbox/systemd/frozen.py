"""What is frozen with a slice, which can't be thawed by itself."""

from __future__ import annotations

import contextlib

from sdbox.cgroup import Cgroup
from sdbox.errors import ManagerRefused, SdboxError
from sdbox.systemd.calls import FROZEN_BY_PARENT


def refuse_frozen_above(unit: str, root: str, directory: str) -> None:
    """Raise ManagerRefused where a unit can't be thawed, since a slice above it is frozen."""
    above = _frozen_slice(root, directory)
    if above is not None:
        # Up to systemd 255 the call would wait for what can't be.
        raise ManagerRefused(
            f"{unit}: it is frozen by its slice {above}",
            name=FROZEN_BY_PARENT,
            hint=f"Thaw the slice: systemctl thaw {above}",
        )


def _frozen_slice(root: str, directory: str) -> str | None:
    """Return the outermost slice above a job that is frozen."""
    levels = directory.removeprefix(root).strip("/").split("/")[:-1]
    for n in range(1, len(levels) + 1):
        directory = "/".join((root, *levels[:n]))
        with contextlib.suppress(SdboxError), Cgroup.open(directory) as cgroup:
            if cgroup.value("cgroup.freeze"):
                return levels[n - 1]
    return None
