"""What is in systemd's @groups of system calls: as it says itself.

Its answer is remembered as long as its program is the same.
"""

from __future__ import annotations

import marshal
import os
from typing import TYPE_CHECKING

from sdbox.errors import Unenforceable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Groups = Mapping[str, Sequence[str]]

_ANALYZE = "/usr/bin/systemd-analyze"
_MEMORY = "/run/sdbox/syscall-groups"
_SECONDS = 30.0

_known: dict[tuple[int, ...], Groups] = {}


def groups() -> Groups:
    """Return systemd's groups and what is in each, calls and groups. Raises Unenforceable."""
    try:
        status = os.stat(_ANALYZE)
    except OSError:
        raise _no_groups("it is not installed") from None
    version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if version not in _known:
        _known[version] = _remembered(version) or _asked(version)
    return _known[version]


def _remembered(version: tuple[int, ...]) -> Groups | None:
    try:
        with open(_MEMORY, "rb") as file:
            if os.fstat(file.fileno()).st_uid != 0:
                return None
            of, found = marshal.load(file)  # noqa: S302 - root's
    except (OSError, ValueError, EOFError, TypeError):
        return None
    return found if of == version else None


def _asked(version: tuple[int, ...]) -> Groups:
    import subprocess

    try:
        done = subprocess.run(
            [_ANALYZE, "syscall-filter", "--no-pager"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            env={"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _no_groups(str(error)) from None
    found = parsed(done.stdout.decode(errors="replace"))
    if "@default" not in found:
        raise _no_groups("it lists none")
    _remember(version, found)
    return found


def parsed(text: str) -> Groups:
    """Return the groups that systemd-analyze lists: `@name`, and below it what is in it."""
    found: dict[str, list[str]] = {}
    group = ""
    for line in text.splitlines():
        if line[:1] == "@":
            group = line.strip()
            found[group] = []
        elif line[:1] == " " and line.strip()[:1] != "#" and group:
            found[group].append(line.strip())
        elif line[:1] == "#":
            # What is in no group, or not known.
            group = ""
    return found


def _remember(version: tuple[int, ...], found: Groups) -> None:
    """Save the next launch the question, where root may write."""
    draft = f"{_MEMORY}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(_MEMORY), mode=0o700, exist_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            marshal.dump((version, dict(found)), file)
        os.rename(draft, _MEMORY)
    except OSError:
        pass


def _no_groups(why: str) -> Unenforceable:
    return Unenforceable(
        f"SystemCallFilter: {_ANALYZE} tells what its groups are, and {why}",
        hint="Install systemd's own tools, or leave the filter out",
    )
