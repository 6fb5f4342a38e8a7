"""One boot of one tier, from the order to its results."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from . import debian, image, qemu
from .commands import run
from .errors import TierFailed
from .lab import Lab
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

Accelerator = Literal["auto", "kvm", "tcg"]

TIERS = {
    "lab": "namespaces: native speed, this machine's kernel and what controllers it has",
    "vm": "QEMU: Debian's own kernel, with every controller",
}
# Paths and options of pytest's.
SUITES = {
    "lab": ("tests/integration",),
    "vm": ("tests/integration", "tests/vm/limits"),
}
# Emulation may be ten times slower than what the tests' own time-outs were chosen for.
PYTEST_OPTIONS = {"lab": (), "vm": ("--override-ini=timeout=900",)}
# What a tier leaves: the first two the tests, the others the machine.
RESULTS = ("junit.xml", "facts", "status", "journal.txt", "processes.txt", "console.log")
SECONDS = {"lab": 900.0, "vm": 5400.0}
_RESULTS_BYTES = 64 << 20
_UNPACK_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a virtual machine gets."""

    accelerator: Accelerator = "auto"
    processors: int = 2
    memory: str = "2G"


def carry_out(
    name: str,
    write_order: Callable[[Path], None],
    output: Path,
    *,
    hardware: Hardware,
    seconds: float | None,
    interactive: bool = False,
) -> int:
    """Boot the tier for one order; return its exit status. Its results go to `output`."""
    output.mkdir(parents=True, exist_ok=True)
    for stale in RESULTS:
        (output / stale).unlink(missing_ok=True)
    machine = _lab() if name == "lab" else _vm(hardware)
    with tempfile.TemporaryDirectory() as directory:
        place, results = Path(directory, "order"), Path(directory, "results")
        write_order(place)
        results.touch()
        os.truncate(results, _RESULTS_BYTES)
        terminal = Terminal(output / "console.log", interactive=interactive)
        try:
            machine.boot(place, results, terminal, seconds or SECONDS[name])
        finally:
            terminal.close()
        _unpack(results, output)
    return _status(output)


def _lab() -> Lab:
    built = image.build()
    return Lab(layers=(built.layer, built.root))


def _vm(hardware: Hardware) -> qemu.Machine:
    debian.install("qemu-system-x86")
    built = image.build()
    machine = qemu.Machine(
        kernel=built.kernel,
        initrd=built.initrd,
        disk=built.disk(),
        accelerator="tcg" if hardware.accelerator == "auto" else hardware.accelerator,
        processors=hardware.processors,
        memory=hardware.memory,
    )
    return qemu.choose(machine) if hardware.accelerator == "auto" else machine


def _unpack(results: Path, output: Path) -> None:
    """Take what the machine has left, a tar of the directory `results`, out of its disk."""
    unpack = ("tar", "--extract", "--strip-components=1", "--no-same-owner")
    run([*unpack, f"--file={results}", f"--directory={output}"], seconds=_UNPACK_SECONDS)


def _status(output: Path) -> int:
    try:
        return int((output / "status").read_text())
    except (FileNotFoundError, ValueError) as error:
        log = output / "console.log"
        raise TierFailed("The machine did not carry out its order", hint=f"See {log}") from error
