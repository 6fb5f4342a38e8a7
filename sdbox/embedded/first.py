"""The first process of the embedded manager's namespaces, until it executes systemd.

It sees the machine's own file system, with these exceptions: a private /run, which starts with
what units/embedded/ holds; its own /proc and cgroup tree; and nothing through which systemd, as
it would at a real boot, changes the machine: sysctls, /sys, /dev, console, kernel log, machine-id
and persistent journal.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sdbox.embedded import needs
from sdbox.init import syscalls, wire
from sdbox.init.steps import StepError, step

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import NoReturn

BOOT_LOG = "/run/sdbox/boot.log"
# machine-id(5): what the file holds before the first boot.
_EMPTY_MACHINE_IDS = ("", "uninitialized")
_JOURNAL = "/var/log/journal"
# The root of a tree with the sources of the message catalogue, sdbox's own among them, and where
# systemd-journal-catalog-update.service puts what it makes of them.
_CATALOG_ROOT = "/run/sdbox/catalog"
_CATALOG_SOURCES = "/usr/lib/systemd/catalog"
_CATALOG = "/var/lib/systemd/catalog"
_UNITS = "/run/systemd/system"
_TRANSIENT = "/run/systemd/transient"
# systemd.unit(5), "Unit File Load Path": those that are not in the private /run.
_MACHINES_UNITS = (
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)

ENVIRONMENT = {
    "PATH": needs.PATH,
    "container": "sdbox",
    # Without a trailing colon: none of the machine's own units is there.
    "SYSTEMD_UNIT_PATH": f"{_TRANSIENT}:{_UNITS}",
    "SYSTEMD_GENERATOR_PATH": f"{_UNITS}/no-generators",
    "SYSTEMD_ENVIRONMENT_GENERATOR_PATH": f"{_UNITS}/no-generators",
}

# As words of a kernel command line (kernel-command-line(7)), which is what a container's command
# line is to systemd: options (systemd(1)) would be forgotten when it reloads.
OPTIONS = (
    "systemd.unit=basic.target",
    "systemd.log_target=journal-or-kmsg",
    "systemd.show_status=no",
    # If systemd crashed, its core would be left in the machine's root directory.
    "systemd.dump_core=no",
    # A watchdog device of the machine's, which the machine's system.conf may speak of.
    "systemd.watchdog_sec=0",
)


def become_systemd(
    systemd: str, units: str, cgroup: str, notify: bytes, errors: socket.socket
) -> NoReturn:
    """Leave the caller's namespaces for new ones; an error goes to `errors` as three fields."""
    try:
        with step("cgroup", cgroup):
            # Before the cgroup namespace, whose root is the cgroup that its maker is in.
            Path(cgroup, "cgroup.procs").write_text("0")
        with step("unshare"):
            syscalls.unshare(
                syscalls.CLONE_NEWNS
                | syscalls.CLONE_NEWIPC
                | syscalls.CLONE_NEWUTS
                | syscalls.CLONE_NEWCGROUP
            )
        with step("files"):
            _arrange_files(units)
        environment = {**ENVIRONMENT, "NOTIFY_SOCKET": "@" + os.fsdecode(notify[1:])}
        with step("execve", systemd):
            os.execve(systemd, [systemd, *OPTIONS], environment)
    except StepError as error:
        wire.send(errors, error.name, error.path, error.number)
    finally:
        os._exit(1)


def _arrange_files(units: str) -> None:
    """Mount what is the manager's own over the machine's file system."""
    with step("mounts"):
        syscalls.make_mounts_slave()
    nothing = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
    no_exec = nothing | syscalls.MOUNT_ATTR_NOEXEC
    _mount("/proc", "proc", no_exec)
    # Read-only, as systemd sets sysctls, makes device nodes and looks for devices, which all are
    # the machine's affair.
    _read_only("/proc/sys", 0)
    _read_only("/sys", 0)
    _read_only("/dev", syscalls.AT_RECURSIVE)
    _mount("/sys/fs/cgroup", "cgroup2", no_exec)
    _mount("/run", "tmpfs", nothing, mode="0755", size="20%")
    with step("units", units):
        _copy(Path(units), Path("/run"))
    # The machine's journal: neither written nor shown.
    _cover_directories([_JOURNAL])
    # SYSTEMD_UNIT_PATH leads away from these already. Should it ever not be heeded, one of the
    # machine's own boot services would run a second time, and empty /tmp under everybody's feet.
    _cover_directories(_MACHINES_UNITS)
    _cover_consoles()
    _cover_machine_id()
    _arrange_catalog()


def _mount(place: str, kind: str, attributes: int, **options: str) -> None:
    with step(f"mount {kind}", place):
        _attach(syscalls.new_mount(kind, attributes, **options), place)


def _read_only(place: str, recursive: int) -> None:
    """Make one mount read-only, but none of those below it."""
    with step("mount read-only", place):
        flags = syscalls.OPEN_TREE_CLONE | recursive
        tree = syscalls.open_tree(syscalls.AT_FDCWD, place, flags)
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
        _attach(tree, place)


def _bind(source: str, place: str) -> None:
    with step("bind", place):
        tree = syscalls.open_tree(syscalls.AT_FDCWD, source, syscalls.OPEN_TREE_CLONE)
        _attach(tree, place)


def _attach(tree: int, place: str) -> None:
    destination = os.open(place, os.O_PATH | os.O_CLOEXEC)
    syscalls.move_mount(tree, destination, place)
    os.close(destination)
    os.close(tree)


def _cover_directories(places: Iterable[str]) -> None:
    """Put an empty read-only directory over each that is there, once where one links to another."""
    read_only = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOEXEC
    for place in {os.path.realpath(place) for place in places if Path(place).is_dir()}:
        _mount(place, "tmpfs", read_only, mode="0755", size="4k")


def _cover_consoles() -> None:
    """Keep systemd's own messages off the machine's console and kernel log."""
    Path(BOOT_LOG).touch()
    for device, source in (("/dev/console", "/dev/null"), ("/dev/kmsg", BOOT_LOG)):
        if Path(device).exists():
            _bind(source, device)


def _cover_machine_id() -> None:
    """Give systemd an identity where the machine has none yet, or it would write one to /etc."""
    with step("machine-id", "/etc/machine-id"):
        present = Path("/etc/machine-id").read_text().strip()
    if present in _EMPTY_MACHINE_IDS:
        Path("/run/machine-id").write_text(f"{os.urandom(16).hex()}\n")
        _bind("/run/machine-id", "/etc/machine-id")


def _arrange_catalog() -> None:
    """Give journalctl a message catalogue that has sdbox's, in the place of the machine's own."""
    for place in (_CATALOG_SOURCES, _CATALOG):
        Path(_CATALOG_ROOT + place).mkdir(parents=True)
    if Path(_CATALOG_SOURCES).is_dir():
        _bind(_CATALOG_SOURCES, _CATALOG_ROOT + _CATALOG_SOURCES)
        _read_only(_CATALOG_ROOT + _CATALOG_SOURCES, 0)
    if Path(_CATALOG).is_dir():
        _bind(_CATALOG_ROOT + _CATALOG, _CATALOG)


def _copy(source: Path, target: Path) -> None:
    """Copy a directory's files and directories into one that is there."""
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir():
            place.mkdir()
            _copy(entry, place)
        else:
            place.write_bytes(entry.read_bytes())
