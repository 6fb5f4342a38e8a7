"""The `vm` tier's machine: the image's own kernel in QEMU, with KVM where that boots it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import cache, debian
from .commands import WITH_US
from .errors import TierFailed
from .terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .image import Image

ACCELERATORS = {
    "kvm": ("-accel", "kvm", "-cpu", "host"),
    # QEMU 7.2 emulates some instructions of newer processors wrongly: one double fault was seen.
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "qemu64,-cx16"),
}
PROBE_SECONDS = 30.0
_PROBE_ANSWER = b"sdbox-probe-booted"
_END_SECONDS = 10.0
_FIXED = (
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
    *("-serial", "stdio"),
)
# A machine that can't go on ends, and its log says why.
_KERNEL = "root=/dev/vda rw console=ttyS0 panic=-1 quiet systemd.show_status=no"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is put into the machine, besides the image."""

    accelerator: str
    processors: int = 2
    memory: str = "2G"

    def boot(
        self, image: Image, order: Path, results: Path, terminal: Terminal, seconds: float
    ) -> None:
        """Boot the image, have it carry out the order, and wait until it is off."""
        disks = (_disk(image.disk(), ",snapshot=on"), _disk(order, ",readonly=on"), _disk(results))
        kernel = f"{_KERNEL} systemd.unit=sdbox-test.service"
        _run([*self._hardware(image), *disks, "-append", kernel], terminal, seconds)

    def probe(self, image: Image, seconds: float = PROBE_SECONDS) -> bool:
        """Tell whether such a machine gets as far as the root's first program."""
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory, "console")
            terminal = Terminal(log)
            kernel = f"{_KERNEL} init=/usr/local/lib/sdbox-test/probe"
            try:
                _run([*self._hardware(image), _disk(image.disk(), ",snapshot=on"), "-append", kernel], terminal, seconds)
            except TierFailed:
                return False
            finally:
                terminal.close()
            return _PROBE_ANSWER in log.read_bytes()
