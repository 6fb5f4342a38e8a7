"""What of its view of the file system a box may not write to or see: init's work for it. Pure.

An entry is (mode, path, whether it may be missing), see sdbox.init.protect; a cover is an empty
directory on top of one that is there. The tables are those of systemd.exec(5) and namespace.c.
"""

from __future__ import annotations

from sdbox.errors import InvalidDirective

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Any

Entry = tuple[str, str, bool]

HIDE, READ_ONLY, READ_WRITE, LEAVE = "hide", "read-only", "read-write", "leave"

_HOMES = ("/home", "/root", "/run/user")
_PROGRAMS = ((READ_ONLY, "/usr", False), (READ_ONLY, "/boot", True), (READ_ONLY, "/efi", True))
_SYSTEM: Mapping[str, tuple[Entry, ...]] = {
    "no": (),
    "yes": _PROGRAMS,
    "full": (*_PROGRAMS, (READ_ONLY, "/etc", True)),
    # The others are what ProtectKernelTunables=, PrivateDevices= and ProtectHome= are for.
    "strict": (
        (READ_ONLY, "/", False),
        *((LEAVE, path, True) for path in ("/proc", "/sys", "/dev", *_HOMES)),
    ),
}
_HOME_MODES = {"yes": HIDE, "read-only": READ_ONLY}
_TUNABLES: tuple[Entry, ...] = (
    *((HIDE, f"/proc/{name}", True) for name in ("kallsyms", "kcore")),
    *(
        (READ_ONLY, f"/proc/{name}", True)
        for name in (
            *("acpi", "apm", "asound", "bus", "fs", "irq", "latency_stats", "mtrr", "scsi", "sys"),
            *("sysrq-trigger", "timer_stats"),
        )
    ),
    (READ_ONLY, "/sys", True),
    (LEAVE, "/sys/fs/cgroup", True),
)
_SWITCHES: Mapping[str, tuple[Entry, ...]] = {
    "ProtectKernelTunables": _TUNABLES,
    "ProtectKernelModules": ((HIDE, "/usr/lib/modules", True),),
    "ProtectControlGroups": ((READ_ONLY, "/sys/fs/cgroup", True),),
}
_LISTS = {
    "InaccessiblePaths": HIDE,
    "ReadOnlyPaths": READ_ONLY,
    "ReadWritePaths": READ_WRITE,
}

# Directories with sockets through which who may do so has a process started outside of its box,
# and what of them is no such thing. As a whole, since a socket that is made anew would not be
# hidden. There is more to systemd's userdb than users: its PID 1 serves all it has on each socket.
MANAGERS: Mapping[str, tuple[str, ...]] = {
    "/run/systemd": ("journal", "resolve", "seats", "sessions", "users"),
    "/run/dbus": (),
    "/run/user": (),
}
# The same, one by one.
ENGINES = (
    *("/run/buildkit", "/run/containerd", "/run/cri-dockerd.sock", "/run/crio", "/run/docker"),
    *("/run/docker.sock", "/run/incus", "/run/initctl", "/run/k3s", "/run/libvirt", "/run/lxd"),
    *("/run/podman", "/run/screen", "/run/snapd-snap.socket", "/run/snapd.socket"),
    *("/run/k0s", "/var/lib/incus/unix.socket", "/var/lib/lxd/unix.socket"),
    # Those of snaps are made anew with each of their restarts.
    *("/var/snap/lxd/common/lxd", "/var/snap/lxd/common/lxd-user", "/var/snap/microk8s/common/run"),
)
# What does what it is asked for, but by root alone: with a variable of udev's, a library named to
# dmeventd or wpa_supplicant, an action of fail2ban's or a filter of CUPS's, a program is executed.
# Hidden where it is said that there is no manager to be reached: root with capabilities has other
# ways, and no other user has this one.
OF_ROOT = (
    *("/run/cups", "/run/dmeventd-client", "/run/dmeventd-server", "/run/fail2ban", "/run/lvm"),
    *("/run/udev/control", "/run/udev/io.systemd.Udev", "/run/wpa_supplicant"),
)
# What sdbox itself has locks in. Who can open a file can lock it, and others' launches would fail
# or do without. (In sdbox.init.nest is one more, which is not always there to be hidden.)
LOCKS = ("/run/sdbox", "/run/sdbox-cpus")


# systemd.exec(5), PrivateDevices=: pseudo devices, by their numbers, and what else programs expect.
_NODES = (
    *(("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9)),
    *(("tty", 5, 0), ("ptmx", 5, 2)),
)
_LINKS = (
    *(("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")),
    *(("stderr", "/proc/self/fd/2"), ("log", "/run/systemd/journal/dev-log")),
)


def devices(*, ordinary: bool) -> dict[str, Any]:
    """What is in a private /dev, see sdbox.init.covers. An `ordinary` user can't make nodes."""
    if ordinary:
        return {"links": [*_LINKS, ("ptmx", "pts/ptmx")]}
    return {"nodes": list(_NODES), "links": list(_LINKS)}


def kept(directives: Mapping[str, Any], cover: str, *, ordinary: bool) -> tuple[str, ...]:
    """What is to be seen of a directory although it is covered."""
    if cover != "/dev":
        return MANAGERS.get(cover, ())
    nodes = tuple(name for name, _, _ in _NODES if name != "ptmx")
    # Queues are those of the machine, whatever IPC namespace looks at them.
    queues = () if directives.get("PrivateIPC") else ("mqueue",)
    terminals = () if own_terminals(directives, ordinary=ordinary) else ("pts",)
    return ("shm", "hugepages", *queues, *(nodes if ordinary else ()), *terminals)


def own_terminals(directives: Mapping[str, Any], *, ordinary: bool) -> bool:
    """Whether a private /dev has pseudo-terminals of its own, and not all of the machine's.

    Who can open those of his user reads what is typed there. A box that is not to see others'
    processes is not to see their terminals, and an ordinary user may open no other /dev/ptmx.
    """
    return bool(directives.get("PrivateDevices")) and (
        ordinary or bool(directives.get("PrivatePIDs"))
    )


def covers(directives: Mapping[str, Any], managers: Iterable[str]) -> Iterator[str]:
    """Where there is an empty directory instead, read-only, before the box's own mounts.

    `managers` are those of MANAGERS and ENGINES that there are on this host.
    """
    if directives.get("PrivateDevices"):
        yield "/dev"
    if directives.get("ProtectHome") == "tmpfs":
        yield from _HOMES
    if not _may_manage(directives):
        yield from (path for path in MANAGERS if path in managers)


def _may_manage(directives: Mapping[str, Any]) -> bool:
    # A root directory has a /run of its own.
    return bool(directives.get("ManagerAccess")) or "RootDirectory" in directives


def entries(
    directives: Mapping[str, Any],
    managers: Iterable[str],
    own: Collection[str],
    writable: Iterable[str],
) -> list[Entry]:
    """What to do after all mounts, of which it may write to those at `writable`.

    Those at `own` the box has asked for. Raises InvalidDirective.
    """
    found = list(_entries(directives, managers, own))
    if any(mode == READ_ONLY for mode, _, _ in found):
        found += [(LEAVE, path, True) for path in writable]
    hidden = {path for mode, path, _ in found if mode == HIDE}
    _refuse_hidden(directives, own, hidden)
    return [entry for entry in found if not _is_below_any(entry[1], hidden)]


def _entries(
    directives: Mapping[str, Any], managers: Iterable[str], own: Iterable[str]
) -> Iterator[Entry]:
    yield from _SYSTEM[directives.get("ProtectSystem", "no")]
    if mode := _HOME_MODES.get(directives.get("ProtectHome", "no")):
        yield from ((mode, path, True) for path in _HOMES)
    for name, table in _SWITCHES.items():
        if directives.get(name):
            yield from table
    if not _may_manage(directives):
        # Who says what is in a place wants it to be there.
        others = set(managers).difference(own)
        yield from ((HIDE, path, True) for path in (*ENGINES, *OF_ROOT, *LOCKS) if path in others)
    for name, mode in _LISTS.items():
        for text in directives.get(name, ()):
            yield _asked(name, mode, text, directives.get("RootDirectory"))


def _asked(name: str, mode: str, text: str, root: str | None) -> Entry:
    """One path: `-` in front of it, it may be missing; `+`, it is one in the root directory."""
    path, may_be_missing = text.removeprefix("-"), text.startswith("-")
    if path.startswith("+") or root in (None, "/"):
        return mode, path.removeprefix("+"), may_be_missing
    if not _is_below(path, str(root)):
        raise InvalidDirective(
            f"{name}: {path} is not in the box's root directory",
            hint=f"Give +{path} for the one in there",
        )
    return mode, path.removeprefix(str(root)) or "/", may_be_missing


def _refuse_hidden(
    directives: Mapping[str, Any], own: Iterable[str], hidden: Iterable[str]
) -> None:
    """Refuse what would be seen, and be written to, below what is to be seen by nobody."""
    written = (text.lstrip("-+") for text in directives.get("ReadWritePaths", ()))
    for place in (*written, *own):
        if _is_below_any(place, hidden) or place in hidden:
            raise InvalidDirective(
                f"{place} is inaccessible to the box, and to be seen in it as well",
                hint="Leave one out; ProtectHome=tmpfs lets be seen what is mounted below it",
            )


def _is_below(path: str, place: str) -> bool:
    return f"{path}/".startswith(f"{place.rstrip('/')}/")


def _is_below_any(path: str, places: Iterable[str]) -> bool:
    return any(path != place and _is_below(path, place) for place in places)


def hides_home(directives: Mapping[str, Any], path: str) -> bool:
    """Tell whether ProtectHome= takes `path` out of sight."""
    hidden = directives.get("ProtectHome") in ("yes", "tmpfs")
    return hidden and any(_is_below(path, place) for place in _HOMES)
