"""What it means that a step of a box could not be done, to who has asked for the box."""

from __future__ import annotations

import errno
import os

from sdbox.errors import LaunchFailed

# The step of that name of `sdbox.init.userns`.
_USER_NAMESPACE = "user namespace"


def launch_error(name: bytes, path: bytes, number: bytes, *, service: bool = False) -> LaunchFailed:
    """Return the error for a step that init, a service's or not, or helper could not do."""
    step, where, code = name.decode(errors="replace"), os.fsdecode(path), int(number)
    if step in _PLACES:
        return _place_refused(step, where, code)
    if step == _USER_NAMESPACE:
        from sdbox.host import userns

        return LaunchFailed(f"{step}: {os.strerror(code)}", hint=userns.remedy(service=service))
    reason = os.strerror(code) if code else "failed"
    if step != "exec":
        place = f"{where!r}: " if where else ""
        return LaunchFailed(f"{step}: {place}{reason}", hint=_HINTS.get((step, code), ""))
    if code == errno.ENOENT:
        hint = "Check the name, and the PATH and RootDirectory of the box"
        return LaunchFailed(f"{where!r}: {reason}", hint=hint, exit_status=127)
    return LaunchFailed(f"{where!r}: {reason}", hint=_HINTS.get((step, code), ""), exit_status=126)


# Steps that take only what nobody but root can have put there, and the directives they are of.
_PLACES = {
    "NamedRoot": "RootDirectory",
    "SecureImage": "MountImages",
    "SecureScratch": "ScratchDirectory",
}


def _place_refused(step: str, place: str, code: int) -> LaunchFailed:
    from sdbox.roots import refusal

    error = refusal(place, code)
    hint = error.hint if step == "NamedRoot" or code != errno.ENOENT else "Make it, or name another"
    return LaunchFailed(f"{_PLACES[step]}: {error.message}", hint=hint)


# By systemd.exec(5), with a - in front. (BindReadOnlyPaths is one step with BindPaths.)
_MAY_BE_MISSING = ("BindPaths", "InaccessiblePaths", "ReadOnlyPaths", "ReadWritePaths")

_HINTS = {
    ("RootDirectory", errno.ENOENT): "Make it, or name another, or one of `sdbox roots`",
    ("RootDirectory", errno.ENOTDIR): "Name a directory; `--image` mounts what is in a file",
    ("mount", errno.ENOENT): "Nothing can be made there: choose another place for it",
    ("setns", errno.EPERM): (
        "An ordinary user's service is in the namespaces of his systemd: leave out --service and"
        " --detach, or start it from there"
    ),
    ("MountAPIVFS", errno.EPERM): (
        "Parts of this machine's /proc or /sys are covered, as in containers: only root may have"
        " it mounted anew, for PrivatePIDs and PrivateNetwork"
    ),
    ("Nestable", errno.ENOENT): "An ordinary user needs his /run/user, as user@.service makes it",
    ("Nestable", errno.ETIMEDOUT): "Somebody keeps it locked: `fuser -v` of it tells who",
    ("exec", errno.EACCES): "It must be a file that the box's user may execute",
    ("exec", errno.ENOEXEC): "A script needs a first line that names its interpreter, as #!/bin/sh",
    ("WorkingDirectory", errno.ENOENT): "Name a directory that is there in the box with --chdir",
    ("WorkingDirectory", errno.EACCES): "Name a directory that the user may enter with --chdir",
    ("ScratchDirectory", errno.ENOENT): "Name a directory that is there",
    ("ScratchDirectory", errno.ELOOP): "Name the directory itself, not a link to it",
    ("ScratchDirectory", errno.EPERM): "It must belong to the job's user, or to root",
    ("MountUnderScratch", errno.ELOOP): "It is a symbolic link: only directories are taken there",
    ("MountUnderScratch", errno.EPERM): "It must belong to the job's user, or to root",
    ("MountImages", errno.EMEDIUMTYPE): "It is neither a squashfs nor an ext4 image",
    ("MountImages", errno.EROFS): "Its journal has to be written: run e2fsck on it",
    ("MountImages", errno.ENOENT): "Loop devices are needed, and /dev/loop-control",
    ("MountImages", errno.ENODEV): "This kernel can't mount that file system",
    ("DiskMax", errno.EXDEV): "Another directory is there than a moment before: try again",
    ("DiskMax", errno.EDQUOT): "It holds more than that already",
    ("RootEphemeral", errno.EINVAL): "An overlay can't be written to a file system of that kind",
    ("RootEphemeral", errno.ENOENT): "Name a directory that is there, or tmpfs",
    ("mount", errno.EROFS): "What that is in is read-only: make a directory, or file, there before",
    ("Limit", errno.EPERM): "Only root may raise a hard limit",
    ("CapabilityBoundingSet", errno.EPERM): "Only root may give up capabilities one by one",
    ("SystemCallFilter", errno.EACCES): "It needs NoNewPrivileges, or root",
    **dict.fromkeys(
        ((name, errno.ENOENT) for name in _MAY_BE_MISSING),
        "Write - in front of a path that may be missing",
    ),
    ("User", errno.EPERM): "Only root may start a job as another user",
}
