"""Parsers of the file systems that a box can have: in memory, and of image files.

With systemd's syntax (systemd.exec(5), TemporaryFileSystem=, MountImages=); each raises Refused.
"""

from __future__ import annotations

from sdbox.values import MountImage, Refused, Tmpfs, as_text
from sdbox.values.names import below_root, fields, path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_DIGITS = "0123456789"

# What is a property of the mount; the last of a kind holds, as with mount(8).
TMPFS_FLAGS = frozenset(
    (
        *("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec"),
        *("noatime", "relatime", "strictatime"),
    )
)


def _amount(text: str, suffixes: str) -> bool:
    return bool(text.rstrip(suffixes)) and not text.rstrip(suffixes).strip(_DIGITS)


# What is a property of the file system: tmpfs(5).
_TMPFS_VALUES: dict[str, Callable[[str], bool]] = {
    "size": lambda text: _amount(text, "kKmMgG%"),
    "nr_blocks": lambda text: _amount(text, "kKmMgG"),
    "nr_inodes": lambda text: _amount(text, "kKmMgG"),
    "mode": lambda text: bool(text) and not text.strip("01234567"),
    "uid": lambda text: bool(text) and not text.strip(_DIGITS),
    "gid": lambda text: bool(text) and not text.strip(_DIGITS),
}


def tmpfs(raw: object) -> Tmpfs:
    """One `PATH[:OPTION,…]`; a backslash takes a colon into the path."""
    place, *rest = fields(as_text(raw))
    if len(rest) > 1:
        raise Refused("has more than one colon", r"Give PATH:OPTIONS, with \: for a colon in PATH")
    options = tuple(option for option in "".join(rest).split(",") if option)
    for option in options:
        _check_option(option)
    return Tmpfs(path=below_root(place), options=options)


def _check_option(option: str) -> None:
    name, equals, value = option.partition("=")
    known = _TMPFS_VALUES.get(name)
    if option not in TMPFS_FLAGS and not (equals and known is not None and known(value)):
        known_names = ", ".join(f"{name}=" for name in _TMPFS_VALUES)
        raise Refused(
            "has an option that no tmpfs takes", f"There are {known_names}, ro, nosuid, noexec …"
        )


def split_commas(text: str) -> list[str]:
    """The items of a list as HTCondor has it: separated by commas, with blanks around."""
    return [item.strip() for item in text.split(",")]


# What holds for every image, whether it is said or not.
_IMAGE_OPTIONS = frozenset(("ro", "nosuid", "nodev"))


def image(raw: object) -> MountImage:
    """One `[-]SRC:DST[:[root:]ro]`; a backslash takes a colon into the path."""
    text = as_text(raw)
    ignore_missing = text.startswith("-")
    source, *rest = fields(text.removeprefix("-"))
    if not rest:
        raise Refused("has no destination", "Give IMAGE:DST")
    destination, *options = rest
    _check_image_options(options)
    return MountImage(
        source=path(source), destination=below_root(destination), ignore_missing=ignore_missing
    )


def _check_image_options(options: list[str]) -> None:
    if len(options) == 2 and options[0] == "root":
        del options[0]
    if len(options) > 1 or not _IMAGE_OPTIONS.issuperset(_said(options)):
        raise Refused(
            "has an option that no image takes",
            "An image is one file system, mounted ro,nosuid,nodev: give IMAGE:DST",
        )


def _said(options: Iterable[str]) -> list[str]:
    return [option for text in options for option in text.split(",")]
