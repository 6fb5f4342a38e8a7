"""Named roots: directories that the configuration has as `/` for jobs, which ask for them by name.

Whoever can change such a directory, or what is above it, could have every job in it run what they
like. So a root is one only while nobody but root can: see `sdbox.init.secure`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from sdbox.errors import InvalidConfiguration, Unenforceable
from sdbox.init import secure
from sdbox.init.steps import StepError
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Mapping

# What is wrong with a place, and the remedy.
_FAULTS = {
    errno.ELOOP: ("is a symbolic link", "Name the directory itself"),
    errno.EPERM: ("is not root's", "chown root {place}"),
    errno.EACCES: (
        "may be written to by others than root",
        # Not the latter alone: it may be /tmp.
        "Take one that only root can change, as below /srv, or chmod go-w {place}",
    ),
    errno.ENOENT: ("is not there", "Make it, or mend [roots] in the configuration"),
    errno.ENOTDIR: ("is not a directory", "Mend [roots] in the configuration"),
}


@record
class Root:
    """A root of the configuration. `fault` is why no job can have it, or empty."""

    name: str
    path: str
    fault: str


def find(roots: Mapping[str, str], name: str, source: str) -> str:
    """Return where the root of that name is; `source` is the configuration's file.

    Raises InvalidConfiguration where there is none, and Unenforceable where it is not secure.
    """
    if name not in roots:
        known = ", ".join(sorted(roots))
        hint = f"There are: {known}" if known else f'Add {name} = "/…" to its table [roots]'
        raise InvalidConfiguration(f"{name}: no such root in {source}", hint=hint)
    try:
        os.close(secure.open_directory(roots[name]))
    except StepError as error:
        raise refusal(error.path, error.number, name=name) from None
    return roots[name]


def listing(roots: Mapping[str, str]) -> list[Root]:
    """Return all roots by their names."""
    return [_looked_at(name, roots[name]) for name in sorted(roots)]


def _looked_at(name: str, path: str) -> Root:
    try:
        os.close(secure.open_directory(path))
    except StepError as error:
        return Root(name=name, path=path, fault=refusal(error.path, error.number).message)
    return Root(name=name, path=path, fault="")


def refusal(place: str, number: int, *, name: str = "") -> Unenforceable:
    """Return the error that says why a place can't be a root, or above one."""
    problem, hint = _FAULTS.get(number, (f"can't be opened: {os.strerror(number)}", ""))
    of = f"root {name}: " if name else ""
    return Unenforceable(f"{of}{place} {problem}", hint=hint.format(place=place))


def advertisement(roots: Mapping[str, str]) -> str:
    """Return what a job of HTCondor's STARTD_CRON prints for the roots that jobs can have.

    NamedChroot is what its startd called them, a list of names in a string.
    """
    names = ",".join(root.name for root in listing(roots) if not root.fault)
    return f'NamedChroot = "{names}"\n-\n'
