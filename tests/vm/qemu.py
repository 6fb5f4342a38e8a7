"""The `vm` tier's machine: the image's own kernel in QEMU, with KVM where that boots it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import tty
from dataclasses import dataclass, replace
from pathlib import Path

from . import cache
from .commands import WITH_US, run
from .errors import TierFailed
from .terminal import Terminal

PACKAGES = ("qemu-system-x86",)
QEMU = "qemu-system-x86_64"
ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # QEMU 7.2 emulates some instructions of newer processors wrongly. These are what numpy needs.
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"),
}
# How many times slower than this machine's a processor then is.
SLOWNESS = {"kvm": 1.0, "tcg": 10.0}
PROBE_SECONDS = 30.0
_PROBE = "/usr/lib/sdbox-test/probe"
_PROBE_ANSWER = b"sdbox-probe-booted"
_ALWAYS = (
    *("-nodefaults", "-no-user-config", "-no-reboot"),
    *("-display", "none", "-serial", "stdio", "-nic", "none"),
)
# A kernel that can't go on ends the machine, and its log says why. systemd would ask a terminal
# that is not dumb about itself, and the answers would be typed at the shell that we run in.
_KERNEL = (
    "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=no TERM=dumb"
    # There is nobody to protect in it from anybody.
    " mitigations=off"
    # The kernel's own use of that instruction, as QEMU 7.2 emulates it, has led to double faults.
    " clearcpuid=cx16"
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the machine is made of; the disk stays as it is."""

    kernel: Path
    initrd: Path
    disk: Path
    accelerator: str
    processors: int = 2
    memory: str = "2G"

    @property
    def slowness(self) -> float:
        """How many times slower than this machine it is."""
        return SLOWNESS[self.accelerator]

    def boot(self, order: Path, results: Path, terminal: Terminal, seconds: float) -> None:
        """Boot, have the order carried out, and wait until the machine is off."""
        disks = (*_drive(order, "readonly=on"), *_drive(results, "cache=unsafe"))
        self._run(terminal, seconds, "systemd.unit=test-of-sdbox.service", *disks)

    def probe(self) -> bool:
        """Tell whether such a machine gets as far as the root's first program."""
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory, "log")
            terminal = Terminal(log, show=False)
            try:
                self._run(terminal, PROBE_SECONDS, f"init={_PROBE}")
            except TierFailed:
                return False
            finally:
                terminal.close()
            return _PROBE_ANSWER in log.read_bytes()

    def _run(self, terminal: Terminal, seconds: float, words: str, *options: str) -> None:
        command = [
            *(*WITH_US, QEMU, *_ALWAYS, *ACCELERATORS[self.accelerator]),
            *("-smp", str(self.processors), "-m", self.memory),
            *("-kernel", str(self.kernel), "-initrd", str(self.initrd)),
            *("-append", f"{_KERNEL} {words}"),
            *_drive(self.disk, "snapshot=on"),
            *options,
        ]
        tty.setraw(terminal.end)
        machine = subprocess.Popen(
            command, stdin=terminal.end, stdout=terminal.end, stderr=terminal.end
        )
        try:
            terminal.follow(machine, seconds)
        finally:
            machine.kill()
            machine.wait()
        if machine.returncode != 0:
            raise TierFailed(f"{QEMU} failed ({machine.returncode})")


def choose(machine: Machine) -> Machine:
    """Return the machine with KVM where it boots with that, which is tried once."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return machine
    faster = replace(machine, accelerator="kvm")

    def find_out(place: Path) -> None:
        place.write_text("boots" if faster.probe() else "does not boot")

    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    version = run([QEMU, "--version"], seconds=PROBE_SECONDS)
    answer = cache.entry(f"kvm-{cache.key(boot, version, machine.kernel.name)}", find_out)
    return faster if answer.read_text() == "boots" else machine


def _drive(file: Path, option: str) -> tuple[str, str]:
    # A comma in a value of QEMU's is written twice.
    path = str(file).replace(",", ",,")
    return "-drive", f"file={path},format=raw,if=virtio,{option}"
