"""The `vm` tier's machine: the image's own kernel in QEMU, with KVM where that boots it."""

from __future__ import annotations

import subprocess
import tempfile
import tty
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import cache, debian
from .commands import WITH_US, run
from .errors import TierFailed
from .terminal import Terminal

if TYPE_CHECKING:
    from .image import Image

QEMU = "qemu-system-x86_64"
ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # QEMU 7.2 emulates some instructions of newer processors wrongly: one double fault was seen.
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "qemu64,-cx16"),
}
PROBE_SECONDS = 30.0
_PROBE = "/usr/local/lib/sdbox-test/probe"
_PROBE_ANSWER = b"sdbox-probe-booted"
_ALWAYS = (
    *("-nodefaults", "-no-user-config", "-no-reboot"),
    *("-display", "none", "-serial", "stdio", "-nic", "none"),
)
# A kernel that can't go on ends the machine, and its log says why.
_KERNEL = "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=no"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is given to the machine, besides the image."""

    accelerator: str = "tcg"
    processors: int = 2
    memory: str = "2G"

    def boot(
        self, image: Image, order: Path, results: Path, terminal: Terminal, seconds: float
    ) -> None:
        """Boot the image, have it carry out the order, and wait until it is off."""
        disks = (_disk(order, "readonly=on"), _disk(results, "cache=unsafe"))
        self._run(image, terminal, seconds, "systemd.unit=sdbox-test.service", *disks)

    def probe(self, image: Image) -> bool:
        """Tell whether such a machine gets as far as the root's first program."""
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory, "log")
            terminal = Terminal(log, show=False)
            try:
                self._run(image, terminal, PROBE_SECONDS, f"init={_PROBE}")
            except TierFailed:
                return False
            finally:
                terminal.close()
            return _PROBE_ANSWER in log.read_bytes()

    def _run(
        self, image: Image, terminal: Terminal, seconds: float, kernel: str, *disks: str
    ) -> None:
        command = [
            *(*WITH_US, QEMU, *_ALWAYS, *ACCELERATORS[self.accelerator]),
            *("-smp", str(self.processors), "-m", self.memory),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", f"{_KERNEL} {kernel}"),
            *_disk(image.disk(), "snapshot=on"),
            *(word for disk in disks for word in disk),
        ]
        tty.setraw(terminal.end)
        machine = subprocess.Popen(command, stdin=terminal.end, stdout=terminal.end)
        try:
            terminal.follow(machine, seconds)
        finally:
            machine.kill()
            machine.wait()
        if machine.returncode != 0:
            raise TierFailed(f"{QEMU} failed ({machine.returncode})")


def choose(image: Image, machine: Machine) -> Machine:
    """Return the machine with KVM if it boots here, which is found out once a boot of the host."""
    faster = replace(machine, accelerator="kvm")
    if not Path("/dev/kvm").exists():
        return machine
