"""A file that holds a file system, mounted read-only by way of a loop device.

The kernel takes what it reads there at its word: who can write to a mounted image, or have any
image mounted, can attack the kernel. So a box takes only what nobody but root can have made.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from sdbox.init import secure, syscalls
from sdbox.init.steps import StepError

STEP = "SecureImage"

_ATTRIBUTES = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV

# linux/loop.h
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
# struct loop_config: the file, the block size, of its loop_info64 only the flags, and the rest.
_LOOP_CONFIG = struct.Struct("=II52xI240x")

# How often another process may take the device that was free a moment ago.
_TRIES = 64

# Where a file system has its mark.
_MARKS = ((0, b"hsqs", "squashfs"), (1080, b"\x53\xef", "ext4"))


def mount(*, source: str, ignore_missing: bool) -> int | None:
    """Return a detached mount of an image, or None where it is missing and may be.

    Raises StepError, of the step STEP where others than root could change it (see secure), and with
    EMEDIUMTYPE for what is no image.
    """
    try:
        image = secure.open_file(source, STEP)
    except StepError as error:
        if ignore_missing and error.number == errno.ENOENT:
            return None
        raise
    try:
        kind = _kind(image, source)
        device, path = _attached(image)
    finally:
        os.close(image)
    try:
        return syscalls.new_mount(kind, _ATTRIBUTES, source=path, ro=None)
    except OSError as error:
        raise StepError("MountImages", source, error.errno or 0) from error
    finally:
        # It is held by the mount from now on, or free again.
        os.close(device)


def _kind(image: int, source: str) -> str:
    for offset, mark, kind in _MARKS:
        if os.pread(image, len(mark), offset) == mark:
            return kind
    raise StepError("MountImages", source, errno.EMEDIUMTYPE)


def _attached(image: int) -> tuple[int, str]:
    """Return a loop device for an open file, which goes when nobody uses it, and its path."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if _configured(device, image):
                return device, path
            os.close(device)
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/dev/loop-control")


def _configured(device: int, image: int) -> bool:
    flags = _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR
    try:
        fcntl.ioctl(device, _LOOP_CONFIGURE, _LOOP_CONFIG.pack(image, 0, flags))
    except OSError as error:
        if error.errno != errno.EBUSY:
            os.close(device)
            raise
        return False
    return True
