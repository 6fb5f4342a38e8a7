"""A machine that panics is booted once more: the emulator may be to blame."""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from .tier import see_through

if TYPE_CHECKING:
    from pathlib import Path

    from .qemu import Machine
    from .terminal import Terminal

PANIC = b"[    3.4] Kernel panic - not syncing: Fatal exception in interrupt\r\n"
DOWN = b"[   20.1] reboot: Power down\r\n"


@dataclass
class Booted:
    """What stands in for a machine: it says what it is told to, a line a boot, and may finish."""

    lines: list[bytes]
    orders: list[Path] = field(default_factory=list)

    def boot(self, order: Path, results: Path, terminal: Terminal, seconds: float) -> None:
        self.orders.append(order)
        line = self.lines[len(self.orders) - 1]
        os.write(terminal.end, line)
        terminal._show()
        if line == DOWN:
            (status := order.with_name("status")).write_text("0")
            with tarfile.open(results, "w") as tar:
                tar.add(status, arcname="results/status")


@pytest.mark.parametrize(
    ("lines", "status"), [([DOWN], "0"), ([PANIC, DOWN], "0"), ([PANIC, PANIC], None)]
)
def test_a_panic_is_given_another_chance(
    tmp_path: Path, lines: list[bytes], status: str | None
) -> None:
    machine = Booted(lines)
    order, output = tmp_path / "order", tmp_path / "output"
    output.mkdir()
    see_through(cast("Machine", machine), order, output, 30.0, interactive=False)
    assert machine.orders == [order] * len(lines)
    place = output / "status"
    assert (place.read_text() if place.exists() else None) == status
    assert lines[-1].strip() in (output / "console.log").read_bytes()


def test_a_person_sees_it_and_decides(tmp_path: Path) -> None:
    machine = Booted([PANIC])
    see_through(cast("Machine", machine), tmp_path / "order", tmp_path, 30.0, interactive=True)
    assert len(machine.orders) == 1
