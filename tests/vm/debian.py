"""What this machine's apt knows: what is installed, and where another suite is to be had."""

from __future__ import annotations

import os

from . import cache
from .commands import run
from .errors import TierFailed

_QUERY_SECONDS = 60.0
_INSTALL_SECONDS = 900.0
# Of the suites that the machine has, those without which a root is not complete.
_POCKETS = ("", "updates", "security")
# apt.conf(5): how this machine reaches any archive at all.
_ACQUIRE = ("Acquire::http", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
_TARGETS = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)"


def install(*packages: str) -> None:
    """Make sure that these packages are installed."""
    # apt does not wait for another that updates its lists.
    with cache.alone("apt"):
        missing = [package for package in packages if not _installed(package)]
        if missing:
            _install(missing)


def _install(missing: list[str]) -> None:
    if os.geteuid() != 0:
        raise TierFailed("Packages are missing", hint=f"apt-get install {' '.join(missing)}")
    _update()
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    run(command, seconds=_INSTALL_SECONDS, environment=quiet)


def sources(suite: str) -> list[str]:
    """Return lines for sources.list(5) that name `suite` where this machine gets its own.

    None on a machine that gets nothing from Debian: the root's builder then knows better.
    """
    found = _sources(suite)
    if not found:
        with cache.alone("apt"):
            _update()
        found = _sources(suite)
    return found


def settings() -> list[str]:
    """Return the settings of this machine's apt that decide how an archive is reached."""
    lines = run(["apt-config", "dump"], seconds=_QUERY_SECONDS).splitlines()
    return [
        line.removesuffix(";")
        for line in lines
        if line.startswith(_ACQUIRE) and not line.endswith(' "";')
    ]


def _sources(suite: str) -> list[str]:
    command = ["apt-get", "indextargets", "--format", _TARGETS, "Created-By: Packages"]
    targets = run(command, seconds=_QUERY_SECONDS).splitlines()
    lines = (translated(suite, *target.split("|")) for target in targets)
    return list(dict.fromkeys(line for line in lines if line))


def translated(suite: str, origin: str, release: str, component: str, uri: str) -> str:
    """Return the line for `suite` that stands where one of apt's targets does, if any."""
    _, dash, pocket = release.partition("-")
    if (origin, component) != ("Debian", "main") or pocket not in _POCKETS:
        return ""
    return f"deb {uri} {suite}{dash}{pocket} main"


def _installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"]
    known = run([*query, "*"], seconds=_QUERY_SECONDS).splitlines()
    return f"{package} installed" in known


def _update() -> None:
    if os.geteuid() == 0:
        run(["apt-get", "update"], seconds=_INSTALL_SECONDS)
