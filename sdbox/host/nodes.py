"""What a job may open, from names to the device numbers that they stand for here.

systemd leaves a rule out whose node it does not find, and it looks in its own namespace. So nodes
are looked up here, refused where they are not there, and given to it by their numbers.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from sdbox.errors import InvalidDirective, Unenforceable
from sdbox.host import gpus
from sdbox.host.gpus import THIS
from sdbox.values import devices
from sdbox.values.devices import Numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdbox.host.gpus import Machine
    from sdbox.values import GPURequest
    from sdbox.values.devices import Rule

_KINDS = {"/dev/char/": False, "/dev/block/": True}


def resolve(
    rules: Sequence[Rule], request: GPURequest | None, machine: Machine = THIS
) -> tuple[Rule, ...]:
    """Return rules by numbers, with those of the GPUs that are asked for.

    Raises Unenforceable, and InvalidDirective where a rule lets in a GPU that is not asked for.
    """
    if request is None:
        return _merged(rules)
    there = gpus.find(machine)
    own = gpus.rules(request, there, machine)
    asked = {node for node, _ in own}
    for gpu in there.values():
        for node in set(gpu.nodes) - asked:
            _check_closed(rules, node, request)
    return _merged((*rules, *own))


def of_gpus(request: GPURequest, machine: Machine = THIS) -> tuple[str, ...]:
    """Return the paths of the nodes of the GPUs that are asked for. Raises Unenforceable."""
    return tuple(node for node, _ in gpus.rules(request, gpus.find(machine), machine))


def _check_closed(rules: Iterable[Rule], node: str, request: GPURequest) -> None:
    numbers = look_up(node)
    for place, _ in rules:
        if any(one.covers(numbers) for one in _meant(place)):
            raise InvalidDirective(
                f"GPUs: {request} is asked for, and DeviceAllow={place} lets {node} in",
                hint="Leave one of them out",
            )


def _merged(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Give each number one rule: of several systemd would take the last one."""
    found: dict[str, str] = {}
    for place, access in rules:
        for numbers in map(str, _meant(place)):
            found[numbers] = found.get(numbers, "") + access
    return tuple(
        (place, "".join(c for c in "rwm" if c in access)) for place, access in found.items()
    )


def _meant(place: str) -> list[Numbers]:
    if place.startswith("/"):
        return [look_up(place)]
    with open("/proc/devices", encoding="utf-8", errors="replace") as file:
        found = devices.group(place, file.read())
    if not found:
        raise Unenforceable(
            f"DeviceAllow: {place}: no such devices are in /proc/devices",
            hint="Load the module that makes them, or leave it out",
        )
    return found


def look_up(path: str) -> Numbers:
    """Return the numbers of a node, which for /dev/char and /dev/block the path has in it.

    Raises Unenforceable.
    """
    for above, block in _KINDS.items():
        major, colon, minor = path.removeprefix(above).partition(":")
        if path.startswith(above) and colon and major.isdecimal() and minor.isdecimal():
            return _checked(Numbers(block=block, major=int(major), minor=int(minor)))
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unenforceable(
            f"DeviceAllow: {path}: {error.strerror}", hint="Name a device that is there"
        ) from None
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise Unenforceable(
            f"DeviceAllow: {path}: it is no device", hint="Name one, or a group such as char-drm"
        )
    device = status.st_rdev
    block = stat.S_ISBLK(status.st_mode)
    return Numbers(block=block, major=os.major(device), minor=os.minor(device))


def _checked(numbers: Numbers) -> Numbers:
    if not numbers.possible:
        raise Unenforceable(
            f"DeviceAllow: {numbers}: no device can have these numbers",
            hint="See `ls -l /dev` for those that are there",
        )
    return numbers
