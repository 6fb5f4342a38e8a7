"""A file system of one file, spoken to the kernel by /dev/fuse itself: fuse_file.py DIR [deaf].

Mounts it at DIR, tells so, and serves it until its stdin ends; a `deaf` one answers nothing but
the greeting. From linux/fuse.h, version 7.31 of the protocol.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import stat
import struct
import sys

CONTENT = b"served by the job\n"
NAME = b"file"
_ROOT, _FILE = 1, 2

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _INIT = 1, 2, 3, 14, 15, 26
_REQUEST = struct.Struct("<IIQQIIII")
_ANSWER = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_ENTRY_OUT = struct.Struct("<QQQQII")
_ATTR_OUT = struct.Struct("<QI4x")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_OPEN_OUT = struct.Struct("<QI4x")

Answer = bytes | int | None


def main() -> None:
    where, deaf = sys.argv[1], sys.argv[2:] == ["deaf"]
    fuse = mounted(where)
    poll = select.poll()
    poll.register(fuse, select.POLLIN)
    poll.register(0, select.POLLIN)
    os.write(1, b"mounted\n")
    while 0 not in {fd for fd, _ in poll.poll()}:
        serve(fuse, deaf=deaf)


def mounted(where: str) -> int:
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"sdbox-test", os.fsencode(where), b"fuse", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), where)
    return fd


def serve(fuse: int, *, deaf: bool) -> None:
    data = os.read(fuse, 1 << 20)
    _, opcode, unique, node, *_ = _REQUEST.unpack_from(data)
    if deaf and opcode != _INIT:
        return
    answer = _answer(opcode, node, data[_REQUEST.size :])
    if answer is None:
        return
    error, body = (-answer, b"") if isinstance(answer, int) else (0, answer)
    os.write(fuse, _ANSWER.pack(_ANSWER.size + len(body), error, unique) + body)


def _answer(opcode: int, node: int, body: bytes) -> Answer:
    if opcode == _INIT:
        return _INIT_OUT.pack(7, 31, 65536, 0, 0, 0, 65536, 1, 0, 0, 0)
    if opcode == _LOOKUP:
        found = node == _ROOT and body == NAME + b"\0"
        return _ENTRY_OUT.pack(_FILE, 0, 0, 0, 0, 0) + _attributes(_FILE) if found else errno.ENOENT
    if opcode == _GETATTR:
        return _ATTR_OUT.pack(0, 0) + _attributes(node)
    if opcode == _OPEN:
        return _OPEN_OUT.pack(0, 0)
    if opcode == _READ:
        offset, size = struct.unpack_from("<QI", body, 8)
        return CONTENT[offset : offset + size]
    return None if opcode == _FORGET else errno.ENOSYS


def _attributes(node: int) -> bytes:
    mode, size = stat.S_IFDIR | 0o755, 0
    if node == _FILE:
        mode, size = stat.S_IFREG | 0o444, len(CONTENT)
    return _ATTR.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


if __name__ == "__main__":
    main()
