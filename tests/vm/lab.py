"""The `lab` tier's machine: the image's systemd as PID 1 of namespaces, at native speed.

It has this machine's kernel and what that gives to a cgroup of ours: often no controller at all.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.embedded import cgroups

from .commands import WITH_US
from .errors import TierFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .terminal import Terminal

_INIT = Path(__file__).resolve().parent / "lab-init"
_PREFIX = "sdbox-lab-"
_KILL_SECONDS = 10.0
# The cgroup first: a cgroup namespace's root is the cgroup that its maker is in.
_ENTER = 'echo 0 >"$cgroup/cgroup.procs" && exec "$@"'
_NAMESPACES = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child=KILL"),
    *("--cgroup", "--uts", "--ipc", "--net", "--"),
)


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The trees that its root is made of, the topmost first. They stay as they are."""

    layers: tuple[Path, ...]

    @property
    def slowness(self) -> float:
        """How many times slower than this machine it is."""
        return 1

    def boot(self, order: Path, results: Path, terminal: Terminal, seconds: float) -> None:
        """Boot, have the order carried out, and wait until the machine is off."""
        with tempfile.TemporaryDirectory() as scratch, _cgroup() as cgroup:
            variables = {
                "PATH": os.environ["PATH"],
                "cgroup": str(cgroup),
                "scratch": scratch,
                "layers": ":".join(str(layer) for layer in self.layers),
                "terminal": terminal.name,
                "order": str(order),
                "results": str(results),
            }
            machine = subprocess.Popen(
                [*WITH_US, "sh", "-c", _ENTER, "sh", *_NAMESPACES, "sh", str(_INIT)],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=terminal.end,
                stderr=terminal.end,
            )
            try:
                terminal.follow(machine, seconds)
            finally:
                machine.kill()
                machine.wait()


@contextmanager
def _cgroup() -> Iterator[Path]:
    """A cgroup of our own below the one that we are in, for all that the machine runs."""
    above = _own_cgroup()
    _sweep(above)
    cgroup = above / f"{_PREFIX}{os.getpid()}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        cgroups.remove(cgroup, _KILL_SECONDS)


def _own_cgroup() -> Path:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line.split()[1] for line in lines if line.split()[2] == "cgroup2"]
    if not mounts:
        raise TierFailed("No cgroup2 file system is mounted", hint="It is what systemd 257 needs")
    membership = Path("/proc/self/cgroup").read_text().splitlines()
    (own,) = (line.removeprefix("0::") for line in membership if line.startswith("0::"))
    return Path(f"{mounts[0]}{own}")


def _sweep(above: Path) -> None:
    """Remove what a run has left that was killed together with its machine."""
    for cgroup in above.glob(f"{_PREFIX}*"):
        if not Path("/proc", cgroup.name.removeprefix(_PREFIX)).exists():
            cgroups.remove(cgroup, _KILL_SECONDS)
