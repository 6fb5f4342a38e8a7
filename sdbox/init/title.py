"""A command line of a process's own, where it is a fork of another and would show that one's."""

from __future__ import annotations

import ctypes

# proc_pid_stat(5): where the arguments begin and end, counted after the command's parenthesis.
_ARG_START, _ARG_END = 48 - 3, 49 - 3


def set_title(text: str) -> None:
    """Have ps(1) and pkill(1) know this process by `text`, as far as there is room for it.

    So that who kills all `sdbox run` by that name leaves those alone that end the boxes. As
    setproctitle(3): where the last byte of the arguments is not NUL, the kernel takes them for one
    string.
    """
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        # It goes by the old one.
        return
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    room = end - start - 2
    if start == 0 or room < 1:
        return
    title = text.encode(errors="replace")[:room]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, title, len(title))
    ctypes.memset(end - 1, ord("."), 1)
