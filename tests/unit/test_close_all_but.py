"""A forked process keeps no descriptor of its parent but those that it names."""

from __future__ import annotations

import errno
import os
import sys

import pytest

# Prints what is open after all but the arguments was closed, where the kernel has a call for that,
# and where there is none (any more).
PROGRAM = """
import os, sys
sys.path[:] = {path!r}
from sdbox.init import descriptors, syscalls
if {without}:
    def refuse(first, last=0):
        raise OSError({enosys}, 'no such call')
    syscalls.close_range = refuse
descriptors.close_all_but({{0, 1, 2, *map(int, sys.argv[1:])}})
print(*(fd for fd in range(200) if os.path.exists(f'/proc/self/fd/{{fd}}')))
"""


@pytest.mark.parametrize("without", [False, True], ids=["close_range", "one by one"])
@pytest.mark.parametrize("kept", [(), (3,), (5, 4), (9, 150)], ids=str)
def test_all_others_are_closed(kept: tuple[int, ...], without: bool) -> None:
    program = PROGRAM.format(path=sys.path, without=without, enosys=errno.ENOSYS)
    reader, writer = os.pipe()
    given = (3, 4, 5, 9, 60, 150)
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
    actions += [(os.POSIX_SPAWN_DUP2, 0, fd) for fd in given]
    command = [sys.executable, "-ISc", program, *map(str, kept)]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
    os.close(writer)
    with open(reader) as file:
        assert file.read().split() == [str(fd) for fd in (0, 1, 2, *sorted(kept))]
    assert os.waitpid(pid, 0)[1] == 0
