"""One boot of one tier, from the order to its results."""

from __future__ import annotations

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

# What a tier leaves: the first two the tests, the others the machine.
RESULTS = ("junit.xml", "facts", "status", "journal.txt", "processes.txt", "console.log")
_RESULTS_BYTES = 64 << 20
_UNPACK_SECONDS = 60.0
# QEMU 7.2 may emulate code of the kernel's while another processor changes it, which a kernel that
# boots does a lot: then that panics.
_BOOTS = 2
_PANIC = b"Kernel panic - not syncing"


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What is tested (paths and options of pytest's), where, and how long it may take.

    `repetitions` is the part of what is repeated that is repeated there.
    """

    about: str
    release: str
    tests: tuple[str, ...]
    seconds: float
    virtual: bool = True
    processors: int = 2
    repetitions: float = 1


_QUOTAS = "tests/vm/limits/test_project_quota.py"
# What systemd does of its own when the kernel has killed, by its version and the unit's type.
_OUT_OF_MEMORY = tuple(
    f"tests/vm/limits/test_kernel_limits.py::{test}"
    for test in (
        "test_a_hog_is_ended_and_told_of",
        "test_a_tmp_in_memory_counts",
        "test_a_victim_does_not_end_a_job_that_wants_to_go_on",
    )
)

TIERS = {
    "lab": Tier(
        about="namespaces, at native speed: systemd 257 on this kernel, with what it has",
        release="trixie",
        tests=("tests/integration",),
        seconds=900,
        virtual=False,
        repetitions=0.25,
    ),
    "limits": Tier(
        about="QEMU: systemd 257 and every controller, the tests of what the kernel keeps",
        release="trixie",
        tests=("tests/vm/limits", f"--ignore={_QUOTAS}"),
        seconds=2400,
    ),
    "limits-252": Tier(
        about="QEMU: Debian 12's kernel and systemd 252, being out of memory, and project quotas",
        release="bookworm",
        # Beside the other, so they share what takes long and does not depend on systemd.
        tests=("tests/vm/limits/test_machine.py", *_OUT_OF_MEMORY, _QUOTAS),
        seconds=2400,
    ),
    "cpus": Tier(
        about="QEMU with four CPUs: jobs with CPUs of their own, launchers that race for them",
        release="trixie",
        tests=(
            "tests/vm/cpus",
            "tests/integration/test_cpus.py",
            "tests/integration/test_cpus_ordinary.py",
        ),
        seconds=4200,
        processors=4,
    ),
    "vm-1": Tier(
        about="QEMU: systemd 257 and every controller, half of what the lab tests",
        release="trixie",
        tests=("tests/integration", "--part=1/2"),
        seconds=4200,
    ),
    "vm-2": Tier(
        about="the other half",
        release="trixie",
        tests=("tests/integration", "--part=2/2"),
        seconds=4200,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a virtual machine gets."""

    accelerator: Accelerator = "auto"
    processors: int | None = None
    memory: str = "2G"


def carry_out(
    name: str,
    write_order: Callable[[Path, image.Image, float], None],
    output: Path,
    *,
    hardware: Hardware,
    seconds: float | None,
    interactive: bool = False,
) -> int:
    """Boot the tier for one order; return its exit status. Its results go to `output`.

    `write_order` gets a path, what is booted, and how many times slower than this machine it is.
    """
    tier = TIERS[name]
    output.mkdir(parents=True, exist_ok=True)
    for stale in RESULTS:
        (output / stale).unlink(missing_ok=True)
    if tier.virtual:
        debian.install(*qemu.PACKAGES)
    built = image.build(tier.release)
    machine = _vm(built, tier, hardware) if tier.virtual else Lab(layers=(built.layer, built.root))
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory, "order")
        write_order(place, built, machine.slowness)
        see_through(machine, place, output, seconds or tier.seconds, interactive=interactive)
    return _status(output)


def see_through(
    machine: qemu.Machine | Lab, order: Path, output: Path, seconds: float, *, interactive: bool
) -> None:
    """Boot until an order is carried out, or as often as is worth it; take what comes of it."""
    for _ in range(_BOOTS):
        _boot(machine, order, output, seconds, interactive=interactive)
        if interactive or _PANIC not in (output / "console.log").read_bytes():
            return


def _boot(
    machine: qemu.Machine | Lab, order: Path, output: Path, seconds: float, *, interactive: bool
) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(_RESULTS_BYTES)
        terminal = Terminal(output / "console.log", interactive=interactive)
        try:
            machine.boot(order, Path(file.name), terminal, seconds)
        finally:
            terminal.close()
        _unpack(Path(file.name), output)


def _vm(built: image.Image, tier: Tier, hardware: Hardware) -> qemu.Machine:
    machine = qemu.Machine(
        kernel=built.kernel,
        initrd=built.initrd,
        disk=built.disk(),
        accelerator="tcg" if hardware.accelerator == "auto" else hardware.accelerator,
        processors=hardware.processors or tier.processors,
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
