"""Where what a job writes is kept, on disk or in memory, and who bounds it. Pure.

On disk are ScratchDirectory=, the private directories of PrivateTmp=yes, and a layer over a root;
DiskMax= is about all of that together. Where a box has nothing on disk, but a private /tmp in
memory, DiskMax= is its size.
"""

from __future__ import annotations

from sdbox.errors import InvalidDirective
from sdbox.init import syscalls
from sdbox.plan.protection import hides_home
from sdbox.values import INFINITY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from sdbox.host.users import Credentials
    from sdbox.result import Enforcement
    from sdbox.values import MountImage, Tmpfs

    Mount = tuple[str, str, dict[str, Any]]

TMP = ("/tmp", "/var/tmp")  # noqa: S108 - these are the places that PrivateTmp= is about
# As systemd's PrivateTmpEx=disconnected has it (exec-invoke.c, namespace.c in systemd 257).
_TMPFS = {"mode": "1777", "size": "10%", "nr_inodes": "1m"}
# What systemd 252's TemporaryFileSystem= shows in /proc/self/mountinfo.
_TEMPORARY = {"mode": "0755", "size": "10%", "nr_inodes": "400k"}
# As machines have it: half of the memory, which is the kernel's own default.
_SHM = {"mode": "1777"}
_DEV_SHM = "/dev/shm"  # noqa: S108 - that is what it is about

_FLAGS = {
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "noatime": syscalls.MOUNT_ATTR_NOATIME,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME,
}
_OPPOSITES = {
    "suid": ("nosuid",),
    "dev": ("nodev",),
    "exec": ("noexec",),
    "relatime": ("noatime", "strictatime"),
    "noatime": ("strictatime",),
    "strictatime": ("noatime",),
    "rw": ("ro",),
}


def check(directives: Mapping[str, Any]) -> None:
    """Raise InvalidDirective for what does not go together."""
    scratch = directives.get("ScratchDirectory")
    places = directives.get("MountUnderScratch", ())
    if places and scratch is None:
        raise InvalidDirective(
            "MountUnderScratch: there is no ScratchDirectory for it", hint="Add --scratch"
        )
    for place in places:
        if _in_memory(directives) and place in TMP:
            raise InvalidDirective(
                f"MountUnderScratch: {place} is to be in memory as well",
                hint="Leave out PrivateTmpSize and PrivateTmp=disconnected, or that place",
            )
        if is_below(place, scratch or "/"):
            raise InvalidDirective(
                f"MountUnderScratch: {place} is in ScratchDirectory itself", hint="Leave it out"
            )
    _check_once(directives)
    if "PrivateTmpSize" in directives and directives.get("PrivateTmp") == "no":
        raise InvalidDirective(
            "PrivateTmpSize: PrivateTmp is no", hint="Leave out one of them, or say yes"
        )
    if "DiskMax" in directives and not (on_disk(directives) or _in_memory(directives)):
        raise InvalidDirective(
            "DiskMax: the box has no directory that could be counted",
            hint="Add --scratch or --private-tmp",
        )


def _check_once(directives: Mapping[str, Any]) -> None:
    places = [mount[1] for mount in mounts(directives, None)]
    twice = sorted(place for place in set(places) if places.count(place) > 1)
    if twice:
        raise InvalidDirective(
            f"{twice[0]}: two directives say what is there",
            hint="Leave out one of TemporaryFileSystem, PrivateTmp, PrivateShm, MountUnderScratch",
        )


def _in_memory(directives: Mapping[str, Any]) -> bool:
    """Whether the private /tmp is a tmpfs."""
    return "PrivateTmpSize" in directives or directives.get("PrivateTmp") == "disconnected"


def keeper(directives: Mapping[str, Any], *, quota: bool = False) -> dict[str, Enforcement]:
    """Return who keeps DiskMax=, where that is not a watch alone.

    `quota`: all of it has one, and the job's processes are bound by that.
    """
    limit = directives.get("DiskMax", 0)
    if (limit and not on_disk(directives)) or limit == INFINITY:
        return {"DiskMax": "kernel"}
    return {"DiskMax": "quota"} if limit and quota else {}


def on_disk(directives: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the directories that all of what DiskMax= is about is in, or is made in."""
    layer = directives.get("RootEphemeral", "no")
    scratch = directives.get("ScratchDirectory")
    given = [scratch] if scratch is not None else []
    return (*given, *directories(directives), *([layer] if layer.startswith("/") else []))


def directories(directives: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the destinations that are the box's own directories on disk, made outside of it."""
    if _in_memory(directives) or "ScratchDirectory" in directives:
        return ()
    return TMP if directives.get("PrivateTmp", "no") == "connected" else ()


def mounts(directives: Mapping[str, Any], credentials: Credentials | None) -> Iterator[Mount]:
    """Return what is empty at first, and what is in the scratch directory."""
    yield from map(_temporary, directives.get("TemporaryFileSystem", ()))
    yield from _private_tmp(directives)
    if directives.get("PrivateShm"):
        yield _tmpfs(_DEV_SHM, _SHM)
    scratch = directives.get("ScratchDirectory")
    if scratch is None:
        return
    user = {
        "uid": -1 if credentials is None or credentials.uid is None else credentials.uid,
        "gid": -1 if credentials is None else credentials.gid,
    }
    yield "ScratchDirectory", scratch, {"directory": scratch, "uid": user["uid"]}
    for place in under(directives):
        yield "MountUnderScratch", place, {"directory": scratch, "place": place, **user}


def depth(place: str) -> tuple[int, str]:
    """Return what sorts places so that each comes after all that it is below."""
    return place.count("/"), place


def under(directives: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is in the scratch directory: what was said, and the private /tmp, if on disk."""
    if "ScratchDirectory" not in directives:
        return ()
    private = directives.get("PrivateTmp") == "connected" and not _in_memory(directives)
    return tuple(dict.fromkeys((*directives.get("MountUnderScratch", ()), *(TMP * private))))


def _private_tmp(directives: Mapping[str, Any]) -> Iterator[Mount]:
    size = _tmp_size(directives)
    if size is not None:
        # One file system, in two places.
        yield from (("PrivateTmpSize", place, {"size": str(size)}) for place in TMP)
    elif _in_memory(directives):
        yield from (_tmpfs(place, _TMPFS) for place in TMP)
    else:
        yield from (("PrivateTmp", place, {}) for place in directories(directives))


def _tmp_size(directives: Mapping[str, Any]) -> int | None:
    """Return the size of the private /tmp in memory, where one was given."""
    if not _in_memory(directives):
        return None
    sizes = [directives["PrivateTmpSize"]] if "PrivateTmpSize" in directives else []
    limit = directives.get("DiskMax", INFINITY)
    if limit != INFINITY and not on_disk(directives):
        sizes.append(limit)
    return min(sizes, default=None)


def _tmpfs(place: str, options: Mapping[str, str]) -> Mount:
    return "MountAPIVFS", place, {"kind": "tmpfs", "options": dict(options)}


def _temporary(one: Tmpfs) -> Mount:
    options, flags = dict(_TEMPORARY), {"nodev"}
    for option in one.options:
        name, equals, value = option.partition("=")
        flags.difference_update(_OPPOSITES.get(name, ()))
        if equals:
            options[name] = value
        elif name in _FLAGS or name == "ro":
            flags.add(name)
    attributes = sum(_FLAGS[flag] for flag in flags - {"ro"})
    arguments = {"options": options, "attributes": attributes, "read_only": "ro" in flags}
    return "TemporaryFileSystem", one.path, arguments


def image(one: MountImage) -> Mount:
    """Return the mount of an image."""
    arguments = {"source": one.source, "ignore_missing": one.ignore_missing}
    return "MountImages", one.destination, arguments


def hides(directives: Mapping[str, Any], path: str) -> bool:
    """Tell whether a box has its own, empty directory where `path` is on the host."""
    binds = (*directives.get("BindPaths", ()), *directives.get("BindReadOnlyPaths", ()))
    shown = [bind.destination for bind in binds]
    if "ScratchDirectory" in directives:
        shown.append(directives["ScratchDirectory"])
    covers = [*under(directives), *(TMP * _has_private_tmp(directives))]
    covers += [_DEV_SHM] * bool(directives.get("PrivateShm"))
    covers += [one.path for one in directives.get("TemporaryFileSystem", ())]
    covers += [one.destination for one in directives.get("MountImages", ())]
    covering, showing = _nearest(path, covers), _nearest(path, shown)
    if covering or showing:
        # In one place, a bind comes last.
        return len(covering) > len(showing)
    return hides_home(directives, path)


def _nearest(path: str, places: Iterable[str]) -> str:
    """Return the deepest of the places that a path is below, or nothing."""
    return max((place for place in places if is_below(path, place)), key=len, default="")


def _has_private_tmp(directives: Mapping[str, Any]) -> bool:
    return _in_memory(directives) or directives.get("PrivateTmp", "no") != "no"


def is_below(path: str, place: str) -> bool:
    """Whether a path is that of a place, or of something below."""
    return f"{path}/".startswith(f"{place.rstrip('/')}/")
