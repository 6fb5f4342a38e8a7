"""The devices that a job may open or make: systemd's syntax, and device numbers. Pure.

A rule is a node such as /dev/fuse, or a group of /proc/devices such as `char-pts` or `block-*`,
and what may be done: r, w, and m for mknod(2) (systemd.resource-control(5), DeviceAllow=).
"""

from __future__ import annotations

from sdbox.errors import Unenforceable
from sdbox.record import record
from sdbox.values import WHITESPACE, Refused, as_text
from sdbox.values.names import path
from sdbox.values.quoting import literal_escape, quote_literal, split_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Rule = tuple[str, str]

_GROUPS = ("char-", "block-")
_ALL = "rwm"
_NOT_THERE = "is neither a path below /dev nor a group"


@record
class Numbers:
    """What one rule is about: a class of devices, and which; None where it is all of them."""

    block: bool
    major: int | None = None
    minor: int | None = None

    def covers(self, other: Numbers) -> bool:
        """Whether a device of the other's is one of these."""
        return (
            self.block == other.block
            and self.major in (None, other.major)
            and self.minor in (None, other.minor)
        )

    def __str__(self) -> str:
        """As systemd takes it, which looks at no file for it."""
        kind = "block" if self.block else "char"
        if self.minor is not None:
            return f"/dev/{kind}/{self.major}:{self.minor}"
        return f"{kind}-{'*' if self.major is None else self.major}"

    @property
    def possible(self) -> bool:
        """Whether the kernel has such numbers, of 12 and 20 bits."""
        return (self.major or 0) < 1 << 12 and (self.minor or 0) < 1 << 20


def rule(raw: Any) -> Rule:
    """One rule from `NODE rwm`, or from a pair; what may be done is all where it is not said."""
    place, access = raw if isinstance(raw, tuple) and len(raw) == 2 else _fields(as_text(raw))
    return _place(as_text(place)), _access(as_text(access))


def _fields(text: str) -> tuple[str, str]:
    words = split_words(text, literal_escape)
    if not 1 <= len(words) <= 2:
        raise Refused
    return words[0], (words[1] if len(words) == 2 else _ALL)


def _place(text: str) -> str:
    if any(c in WHITESPACE for c in text) or not text.isprintable():
        raise Refused("has a blank in it", "Give /dev/char/MAJOR:MINOR, or /dev/block/…")
    if "\\" in text:
        raise Refused("has a backslash in it", "Give /dev/char/MAJOR:MINOR, or /dev/block/…")
    if text.startswith(_GROUPS) and text not in _GROUPS and "/" not in text:
        return text
    if not text.startswith("/dev/"):
        raise Refused(_NOT_THERE)
    simple = path(text)
    if simple == "/dev":
        raise Refused(_NOT_THERE)
    return simple


def _access(text: str) -> str:
    if text.strip(_ALL):
        raise Refused("allows what is none of r, w and m")
    return "".join(c for c in _ALL if c in text) or _ALL


def format_rules(rules: Iterable[Rule]) -> list[str]:
    """Each as `NODE rwm`."""
    return [f"{quote_literal(place)} {access}" for place, access in rules]


# Documentation/admin-guide/devices.txt of the kernel, and what init does with them.
_LOOPS = ((Numbers(block=False, major=10, minor=237), "rw"), (Numbers(block=True, major=7), "r"))


def check_loops(rules: Iterable[Rule]) -> None:
    """Raise Unenforceable where rules, by numbers, keep a box from the loop devices of its images.

    It is the box itself that mounts them, and so the job would have these devices as well.
    """
    allowed = [(_numbers(place), access) for place, access in rules]
    for needed, access in _LOOPS:
        if not any(one.covers(needed) and set(access) <= set(may) for one, may in allowed):
            raise Unenforceable(
                f"MountImages: the box may not open {needed}, by which images are mounted",
                hint="Leave out DevicePolicy, DeviceAllow and GPUs, or give the job all loop"
                " devices: DeviceAllow=/dev/loop-control rw, DeviceAllow=block-loop r",
            )


def _numbers(place: str) -> Numbers:
    """The numbers in what Numbers says as text."""
    kind, _, rest = place.removeprefix("/dev/").replace("/", "-", 1).partition("-")
    major, _, minor = rest.partition(":")
    return Numbers(
        block=kind == "block",
        major=None if major == "*" else int(major),
        minor=int(minor) if minor else None,
    )


def group(name: str, known: str) -> list[Numbers]:
    """The numbers of a group, with what /proc/devices says; none where it knows of no such.

    The name is a pattern of the shell's.
    """
    from fnmatch import fnmatchcase

    kind, _, pattern = name.partition("-")
    block = kind == "block"
    if pattern == "*":
        return [Numbers(block=block)]
    if pattern.isascii() and pattern.isdecimal():
        # To systemd 010 is octal.
        numbers = Numbers(block=block, major=int(pattern))
        return [numbers] if str(numbers) == name and numbers.possible else []
    # To Python's fnmatch ^ is a character as any other.
    pattern = pattern.replace("[^", "[!")
    majors = (line.split(maxsplit=1) for line in _section(known, block=block))
    return list(
        dict.fromkeys(
            Numbers(block=block, major=int(number))
            for number, driver in majors
            if fnmatchcase(driver, pattern)
        )
    )


def _section(known: str, *, block: bool) -> list[str]:
    title = "Block devices:" if block else "Character devices:"
    for part in known.split("\n\n"):
        first, *rest = part.strip().split("\n")
        if first == title:
            return rest
    return []
