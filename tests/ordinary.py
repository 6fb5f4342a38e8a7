"""An ordinary user for tests that root runs: the one that every machine has for that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dbus_next
import psutil
import pytest

import sdbox
from sdbox.systemd.endpoint import booted

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
# The interpreter itself, which every user may execute: a virtual environment may be root's alone.
PYTHON = os.path.realpath(sys.executable)
# What subprocess.run takes to be that user.
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}


def need_user_namespaces() -> None:
    """Skip where an ordinary user can't have one with the mounts that a box needs."""
    program = ["unshare", "--user", "--map-current-user", "--mount", "true"]
    if subprocess.run(program, check=False, capture_output=True, **AS_NOBODY).returncode:
        pytest.skip("an ordinary user can have no user namespaces here")


def need_own_proc() -> None:
    """Skip where a user namespace can't have a /proc of its own: the machine's is covered."""
    need_user_namespaces()
    program = ["unshare", "-Urpf", "--mount-proc", "true"]
    if subprocess.run(program, check=False, capture_output=True, **AS_NOBODY).returncode:
        pytest.skip("an ordinary user can mount no /proc here")


@contextmanager
def place_of(uid: int) -> Iterator[Path]:
    """A directory of a user's own, which pytest's are not."""
    place = Path(tempfile.mkdtemp(prefix="sdbox-test-", dir="/var/tmp"))
    try:
        place.chmod(0o755)
        shutil.chown(place, uid, uid)
        yield place
    finally:
        shutil.rmtree(place)


def _executes(uid: int, words: tuple[str, ...]) -> bool:
    as_user: dict[str, Any] = dict(AS_NOBODY) if uid == NOBODY else {}
    with suppress(OSError):
        done = subprocess.run(words, check=False, capture_output=True, cwd="/", **as_user)
        return done.returncode == 0
    return False


@contextmanager
def command_of(uid: int, command: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The command as a user can execute it: a checkout may be in root's home."""
    if _executes(uid, (*command, "--version")):
        yield command
        return
    place = Path(tempfile.mkdtemp(prefix="sdbox-test-", dir="/var/tmp"))
    try:
        place.chmod(0o755)
        for module in (sdbox, dbus_next, psutil):
            source = Path(str(module.__file__)).parent
            shutil.copytree(source, place / source.name)
        program = place / "sdbox-command"
        program.write_text(
            f"#!{PYTHON} -IS\nimport sys\nsys.path.append({str(place)!r})\n"
            "from sdbox.cli import entry\nentry()\n"
        )
        program.chmod(0o755)
        yield (str(program),)
    finally:
        shutil.rmtree(place)


_RUNTIME_DIRECTORY = f"/run/user/{NOBODY}"


@contextmanager
def user_manager(*, bus: bool = True) -> Iterator[None]:
    """That user's own systemd, as with linger; skip where none can be started.

    Without a `bus` it is as on a machine that has no dbus-user-session.
    """
    if os.geteuid() != 0 or not booted():
        pytest.skip("systemd, which starts users' managers, is not this machine's PID 1")
    unit = f"user@{NOBODY}.service"
    started = subprocess.run(["systemctl", "start", unit], check=False, capture_output=True)
    if started.returncode or not Path(_RUNTIME_DIRECTORY, "bus").exists():
        pytest.skip("no manager of an ordinary user can be started here")
    try:
        if not bus:
            _take_bus_away()
        yield
    finally:
        subprocess.run(["systemctl", "stop", unit], check=True)


def _take_bus_away() -> None:
    users_systemctl("stop", "dbus.socket", "dbus.service")
    Path(_RUNTIME_DIRECTORY, "bus").unlink(missing_ok=True)


def users_systemctl(*words: str) -> None:
    """Ask that user's manager, by its own socket."""
    subprocess.run(
        ["systemctl", "--user", *words],
        check=True,
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": _RUNTIME_DIRECTORY},
        **AS_NOBODY,
    )
