"""Which GPUs there are, from what the kernel shows; and groups of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sdbox.errors import Unenforceable
from sdbox.host import gpus
from sdbox.host.gpus import Gpu, Machine
from sdbox.values import GPURequest, devices
from sdbox.values.devices import Numbers

if TYPE_CHECKING:
    from pathlib import Path

PROC_DEVICES = """Character devices:
  1 mem
  4 tty
  4 /dev/vc/0
136 pts
195 nvidia
195 nvidiactl
226 drm

Block devices:
  7 loop
  8 sd
 65 sd
"""


class Tree:
    """A machine's files, made one by one."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.dev = place / "dev"
        self.machine = Machine(
            dev=str(self.dev), drm=str(place / "drm"), nvidia=str(place / "nvidia")
        )

    def nodes(self, *names: str) -> None:
        for name in names:
            self.write(f"dev/{name}", "")

    def write(self, name: str, text: str) -> None:
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def card(self, minor: int, address: str, driver: str | None) -> None:
        """A GPU as the kernel's DRM shows it."""
        device = self.place / "devices" / address
        device.mkdir(parents=True)
        if driver is not None:
            module = self.place / "drivers" / driver
            module.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(module)
        place = self.place / "drm" / f"renderD{minor}"
        place.mkdir(parents=True)
        (place / "device").symlink_to(device)
        self.nodes(f"dri/renderD{minor}", f"dri/card{minor - 128}")

    def nvidia(self, minor: int, address: str) -> None:
        """A GPU as NVIDIA's driver shows it."""
        text = f"Model: \t\t A100\nDevice Minor: \t {minor}\n"
        self.write(f"nvidia/gpus/{address}/information", text)
        self.nodes(f"nvidia{minor}")

    def path(self, *names: str) -> tuple[str, ...]:
        return tuple(str(self.dev / name) for name in names)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_machine_without_any(tree: Tree) -> None:
    assert gpus.find(tree.machine) == {}
    assert gpus.rules(GPURequest(gpus=()), {}, tree.machine) == []
    with pytest.raises(Unenforceable, match="there is no GPU 0: this machine has none"):
        gpus.rules(GPURequest(gpus=(0,)), {}, tree.machine)


def test_nvidias(tree: Tree) -> None:
    tree.nvidia(0, "0000:3b:00.0")
    tree.nvidia(1, "0000:AF:00.0")
    tree.card(129, "0000:3b:00.0", "nvidia")
    tree.card(128, "0000:af:00.0", "nvidia")
    tree.nodes("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap1")
    found = gpus.find(tree.machine)
    first = Gpu(number=0, driver="nvidia", nodes=tree.path("nvidia0", "dri/renderD129"))
    second = Gpu(number=1, driver="nvidia", nodes=tree.path("nvidia1", "dri/renderD128"))
    assert found == {0: first, 1: second}
    rules = gpus.rules(GPURequest(gpus=(1,)), found, tree.machine)
    shared = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
    wanted = tree.path("nvidia1", "dri/renderD128", *shared)
    assert rules == [(path, "rw") for path in wanted]
    with pytest.raises(Unenforceable, match="there is no GPU 2: this machine has 0, 1"):
        gpus.rules(GPURequest(gpus=(1, 2)), found, tree.machine)


def test_what_cuda_has_to_find(tree: Tree) -> None:
    """The first program that uses it makes that node, which in a closed box none can."""
    tree.card(128, "0000:c1:00.0", "amdgpu")
    assert gpus.remedy(gpus.find(tree.machine), tree.machine) == ""
    tree.nvidia(0, "0000:3b:00.0")
    assert "nvidia-modprobe" in gpus.remedy(gpus.find(tree.machine), tree.machine)
    tree.nodes("nvidia-uvm")
    assert gpus.remedy(gpus.find(tree.machine), tree.machine) == ""


def test_a_gpu_keeps_its_number_when_another_has_fallen_off(tree: Tree) -> None:
    tree.nvidia(1, "0000:af:00.0")
    assert list(gpus.find(tree.machine)) == [1]


def test_the_instances_of_a_gpu(tree: Tree) -> None:
    """Its own alone, and none of the nodes by which instances are made or watched."""
    for minor in (0, 1):
        tree.nvidia(minor, f"0000:0{minor}:00.0")
    access = {
        "mig/config": 1,
        "mig/monitor": 2,
        "gpu0/mig/gi1/access": 12,
        "gpu0/mig/gi1/ci0/access": 13,
        "gpu1/mig/gi2/access": 156,
        "gpu1/mig/gi3/access": 165,
    }
    for place, minor in access.items():
        text = f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
        tree.write(f"nvidia/capabilities/{place}", text)
    tree.nodes(*(f"nvidia-caps/nvidia-cap{minor}" for minor in (1, 2, 12, 13, 156)))
    found = gpus.find(tree.machine)
    caps = ("nvidia-caps/nvidia-cap12", "nvidia-caps/nvidia-cap13")
    assert found[0].nodes == tree.path("nvidia0", *caps)
    # One of the two has no node.
    assert found[1].nodes == tree.path("nvidia1", "nvidia-caps/nvidia-cap156")


def test_amds_are_numbered_by_where_they_are(tree: Tree) -> None:
    tree.card(128, "0000:c1:00.0", "amdgpu")
    tree.card(129, "0000:03:00.0", "amdgpu")
    tree.nodes("kfd")
    found = gpus.find(tree.machine)
    assert [one.nodes for one in found.values()] == [
        tree.path("dri/renderD129"),
        tree.path("dri/renderD128"),
    ]
    rules = gpus.rules(GPURequest(gpus=(0,)), found, tree.machine)
    assert rules == [(path, "rw") for path in tree.path("dri/renderD129", "kfd")]


def test_the_parts_of_a_divided_amd(tree: Tree) -> None:
    """Which are platform devices without a driver, and in need of the same shared node."""
    tree.card(128, "0000:c1:00.0", "amdgpu")
    for minor, number in ((129, 10), (130, 2), (131, 0)):
        tree.card(minor, f"amdgpu_xcp_{number}", None)
    tree.card(132, "0000:0a:00.0", None)
    tree.nodes("kfd")
    found = gpus.find(tree.machine)
    order = [one.nodes[0].removeprefix(str(tree.dev / "dri/renderD")) for one in found.values()]
    assert order == ["132", "128", "131", "130", "129"]
    assert [one.driver for one in found.values()] == ["", *["amdgpu"] * 4]
    rules = gpus.rules(GPURequest(gpus=(4,)), found, tree.machine)
    assert rules == [(path, "rw") for path in tree.path("dri/renderD129", "kfd")]


def test_others_come_after_nvidias(tree: Tree) -> None:
    tree.nvidia(0, "0000:3b:00.0")
    tree.card(128, "0000:3b:00.0", "nvidia")
    tree.card(129, "0000:00:02.0", "i915")
    tree.nodes("kfd", "nvidiactl", "nvidia0-of-mine")
    found = gpus.find(tree.machine)
    assert {number: one.driver for number, one in found.items()} == {0: "nvidia", 1: "i915"}
    rules = gpus.rules(GPURequest(gpus=(1,)), found, tree.machine)
    assert rules == [(path, "rw") for path in tree.path("dri/renderD129")]
    both = gpus.rules(GPURequest(gpus=(0, 1)), found, tree.machine)
    assert str(tree.dev / "nvidiactl") in dict(both)


@pytest.mark.parametrize(
    ("name", "majors"),
    [
        ("char-pts", {136}),
        ("char-nvidia*", {195}),
        ("char-226", {226}),
        ("char-0226", set()),
        ("char-0xe2", set()),
        ("char-4095", {4095}),
        ("char-4096", set()),
        ("char-[a-m]*", {1, 226}),
        ("char-[^a-o/]*", {4, 136}),
        ("block-sd", {8, 65}),
        ("block-*", {None}),
        ("char-sd", set()),
        ("block-mem", set()),
        ("char-nope", set()),
    ],
)
def test_groups(name: str, majors: set[int | None]) -> None:
    found = devices.group(name, PROC_DEVICES)
    assert {one.major for one in found} == majors
    assert {one.block for one in found} <= {name.startswith("block-")}


def test_what_numbers_cover() -> None:
    node = Numbers(block=False, major=195, minor=1)
    assert node.covers(node)
    assert str(node) == "/dev/char/195:1"
    assert str(Numbers(block=True, major=8)) == "block-8"
    assert str(Numbers(block=False)) == "char-*"
    assert Numbers(block=False, major=195).covers(node)
    assert Numbers(block=False).covers(node)
    others = (
        Numbers(block=True),
        Numbers(block=False, major=226),
        Numbers(block=False, major=195, minor=0),
    )
    assert not any(one.covers(node) for one in others)
