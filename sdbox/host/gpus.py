"""The GPUs of this machine, and the device nodes through which each is used.

NVIDIA's have the number in their node's name, /dev/nvidiaN. All others that the kernel's DRM has
a render node for, AMD's above all, come after these in the order of their PCI addresses. Of an AMD
GPU that is divided, what comes after the first part is a platform device, amdgpu_xcp_N.
"""

from __future__ import annotations

import contextlib
import os
from glob import glob
from typing import TYPE_CHECKING

from sdbox.errors import Unenforceable
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sdbox.values import GPURequest
    from sdbox.values.devices import Rule

# What each program that computes on a GPU of theirs opens besides the GPU's own node.
_SHARED = {
    "nvidia": ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"),
    "amdgpu": ("kfd",),
}
# Of these, what is there only once a program outside of a box has used CUDA, or root has made it.
_LATE = "nvidia-uvm"

# What a part is called, to which no driver is bound, or none of that name.
_PART, _PARTS_DRIVER = "amdgpu_xcp", "amdgpu"
_DIGITS = "0123456789"


@record
class Machine:
    """Where the kernel shows what it has."""

    dev: str = "/dev"
    drm: str = "/sys/class/drm"
    nvidia: str = "/proc/driver/nvidia"


@record
class Gpu:
    """One GPU: its driver, and the paths of the nodes that are its own."""

    number: int
    driver: str
    nodes: tuple[str, ...]


@record
class _Render:
    """A render node, its driver, and the address of the device behind it."""

    node: str
    driver: str
    address: str


THIS = Machine()


def find(machine: Machine = THIS) -> dict[int, Gpu]:
    """Return all GPUs by their numbers."""
    rendering = sorted(_render_nodes(machine), key=lambda one: _order(one.address))
    gpus = {minor: _nvidia(machine, minor, rendering) for minor in _minors(machine)}
    others = (one for one in rendering if one.driver != "nvidia")
    for number, one in enumerate(others, max(gpus, default=-1) + 1):
        gpus[number] = Gpu(number=number, driver=one.driver, nodes=(one.node,))
    return gpus


def rules(request: GPURequest, gpus: Mapping[int, Gpu], machine: Machine = THIS) -> list[Rule]:
    """Return what the GPUs that are asked for take. Raises Unenforceable."""
    if missing := sorted(set(request.gpus) - gpus.keys()):
        there = ", ".join(map(str, sorted(gpus))) or "none"
        raise Unenforceable(
            f"GPUs: there is no GPU {missing[0]}: this machine has {there}",
            hint="`sdbox doctor` lists them",
        )
    asked = [gpus[number] for number in request.gpus]
    shared = [
        node
        for driver in sorted({one.driver for one in asked})
        for node in _shared(machine, driver)
    ]
    own = [node for one in asked for node in one.nodes]
    return [(node, "rw") for node in (*own, *shared)]


def remedy(gpus: Mapping[int, Gpu], machine: Machine = THIS) -> str:
    """Return how to have what a GPU here lacks to be computed on in boxes, empty if nothing."""
    lacks = any(_LATE in _SHARED.get(one.driver, ()) for one in gpus.values())
    if not lacks or os.path.exists(f"{machine.dev}/{_LATE}"):
        return ""
    return (
        f"CUDA needs {machine.dev}/{_LATE} before a job starts: as root, `nvidia-modprobe -u -c 0`"
    )


def _shared(machine: Machine, driver: str) -> list[str]:
    # Which of them there are depends on the modules that are loaded.
    paths = (f"{machine.dev}/{name}" for name in _SHARED.get(driver, ()))
    return [path for path in paths if os.path.exists(path)]


def _minors(machine: Machine) -> list[int]:
    with contextlib.suppress(OSError):
        names = (name.removeprefix("nvidia") for name in os.listdir(machine.dev))
        digits = (name for name in names if name.isascii() and name.isdecimal())
        return sorted(int(n) for n in digits if os.path.exists(f"{machine.dev}/nvidia{n}"))
    return []


def _nvidia(machine: Machine, minor: int, rendering: Iterable[_Render]) -> Gpu:
    address = _address(machine, minor)
    drawing = [one.node for one in rendering if one.address == address]
    nodes = (f"{machine.dev}/nvidia{minor}", *drawing, *_instances(machine, minor))
    return Gpu(number=minor, driver="nvidia", nodes=nodes)


def _address(machine: Machine, minor: int) -> str | None:
    """Return the PCI address of a GPU, as NVIDIA's driver tells it."""
    for place in glob(f"{machine.nvidia}/gpus/*/information"):
        if _field(place, "Device Minor") == minor:
            return place.split("/")[-2].lower()
    return None


def _instances(machine: Machine, minor: int) -> Iterator[str]:
    """Find the nodes by which a GPU's instances (MIG) are had; not those that make such."""
    above = f"{machine.nvidia}/capabilities/gpu{minor}/mig"
    for place in sorted((*glob(f"{above}/gi*/access"), *glob(f"{above}/gi*/ci*/access"))):
        number = _field(place, "DeviceFileMinor")
        node = f"{machine.dev}/nvidia-caps/nvidia-cap{number}"
        if number is not None and os.path.exists(node):
            yield node


def _render_nodes(machine: Machine) -> Iterator[_Render]:
    for place in glob(f"{machine.drm}/renderD*"):
        node = f"{machine.dev}/dri/{os.path.basename(place)}"
        if os.path.exists(node):
            device = os.path.realpath(f"{place}/device")
            address = os.path.basename(device).lower()
            yield _Render(node=node, driver=_driver(device), address=address)


def _driver(device: str) -> str:
    """Return the name of a device's driver, empty where it has none."""
    if os.path.basename(device).startswith(_PART):
        return _PARTS_DRIVER
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"{device}/driver"))
    return ""


def _order(address: str) -> tuple[bool, int, str]:
    """What sorts devices by their addresses, and parts after these by their numbers."""
    number = address.removeprefix(address.rstrip(_DIGITS))
    is_part = address.startswith(_PART)
    return is_part, int(number) if is_part and number else 0, address


def _field(path: str, name: str) -> int | None:
    """Return the number after `name:` in a file."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == name and value.strip().isdecimal():
                return int(value)
    return None
