"""Where a job's stdout and stderr go: `--output`, with the words of systemd's StandardOutput=.

In the journal stderr is apart from stdout by its priority, as container engines have it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from sdbox.errors import InvalidDirective, ManagerUnavailable, SdboxError, Unenforceable
from sdbox.messages import one_line
from sdbox.record import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdbox.launch.helper import Helper
    from sdbox.plan import Plan

# syslog(3): LOG_INFO for stdout, LOG_ERR for stderr.
_PRIORITIES = (6, 3)

# How long the end of a job may wait for the journal to take its last output.
_OUTPUT_SECONDS = 5.0
# How long opening a stream may take. A journal that runs takes less than a millisecond.
_STREAM_SECONDS = 5.0
_STREAM_BUFFER = 8 * 1024 * 1024
_IDENTIFIER_LONGEST = 64

_OPEN = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
# A plain path is what a shell's > does; the others are those of systemd.exec(5).
_FILES = {"": os.O_TRUNC, "file:": 0, "append:": os.O_APPEND, "truncate:": os.O_TRUNC}
_WORDS = ("inherit", "null", "journal")


@record
class Output:
    """What was asked for. `flags` are those of open(2), where it is a file."""

    kind: str
    path: str = ""
    flags: int = 0


@record
class Outlets:
    """A job's stdout and stderr, open: of them, `to_journal` are streams, `files` were opened."""

    stdout: int
    stderr: int
    to_journal: tuple[socket.socket, ...] = ()
    files: tuple[int, ...] = ()

    def handed_over(self) -> None:
        """Let go of files that the job has. It is its end that ends streams."""
        for fd in self.files:
            os.close(fd)


def parse(text: str) -> Output:
    """Return what `--output` asks for. Raises InvalidDirective."""
    if text in _WORDS:
        return Output(kind=text)
    prefix = next((p for p in _FILES if p and text.startswith(p)), "")
    path = text.removeprefix(prefix)
    if not path or "\0" in path:
        raise InvalidDirective(
            f"--output: {text!r} is no place for output",
            hint=f"Give {', '.join(_WORDS)}, or a file",
        )
    return Output(kind="file", path=path, flags=_FILES[prefix])


def opened(output: Output, journal: str, plan: Plan, inherited: Outlets) -> Outlets:
    """Open what was asked for. Raises SdboxError.

    `journal` is the directory of the journal's sockets. The journal hangs up on a process that it
    can't see: such a one has `opened_through`.
    """
    if output.kind == "inherit":
        return inherited
    if output.kind == "journal":
        return _to_journal(plan, [_connected(journal) for _ in range(2)])
    return _to_file(output)


async def opened_through(
    helper: Helper, output: Output, journal: str, plan: Plan, inherited: Outlets
) -> Outlets:
    """Open what was asked for, as `opened` does; the journal sees the helper instead."""
    if output.kind != "journal":
        return opened(output, journal, plan, inherited)
    streams: list[socket.socket] = []
    try:
        for _ in range(2):
            streams.append(await helper.connect(_stream_socket(journal)))
    except ManagerUnavailable as error:
        _close(streams)
        raise _no_journal(error.message) from None
    return _to_journal(plan, streams)


def _to_file(output: Output) -> Outlets:
    path = "/dev/null" if output.kind == "null" else output.path
    try:
        fd = os.open(path, _OPEN | output.flags, 0o666)
    except OSError as error:
        raise SdboxError(
            f"--output: {path!r}: {error.strerror}", hint="Name a file that can be written"
        ) from None
    return Outlets(stdout=fd, stderr=fd, files=(fd,))


def _to_journal(plan: Plan, streams: Sequence[socket.socket]) -> Outlets:
    identifier = os.path.basename(plan.command[0])
    try:
        for stream, priority in zip(streams, _PRIORITIES, strict=True):
            header = stream_header(identifier=identifier, unit=plan.unit, priority=priority)
            _begin(stream, header)
    except OSError as error:
        _close(streams)
        raise _no_journal(error.strerror or "no answer") from None
    stdout, stderr = (stream.fileno() for stream in streams)
    return Outlets(stdout=stdout, stderr=stderr, to_journal=tuple(streams))


def _connected(journal: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(_STREAM_SECONDS)
    try:
        sock.connect(_stream_socket(journal))
    except OSError as error:
        sock.close()
        raise _no_journal(error.strerror or "no answer") from None
    return sock


def _stream_socket(journal: str) -> str:
    return f"{journal}/stdout"


def _close(streams: Iterable[socket.socket]) -> None:
    for stream in streams:
        stream.close()


def _begin(sock: socket.socket, header: bytes) -> None:
    sock.settimeout(_STREAM_SECONDS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _STREAM_BUFFER)
    sock.sendall(header)
    sock.shutdown(socket.SHUT_RD)
    # A payload expects to be held up when it is full.
    sock.settimeout(None)


def stream_header(*, identifier: str, unit: str, priority: int) -> bytes:
    """Return the lines that a stream begins with, as systemd writes them for a service's output.

    The journal takes the unit from the cgroup of each line's writer, and this one only for a writer
    that has gone by then.
    """
    named = one_line(identifier)[:_IDENTIFIER_LONGEST]
    level_prefix, forwards = 1, (0, 0, 0)
    lines = (named, unit, priority, level_prefix, *forwards)
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


async def taken_in(streams: Sequence[socket.socket]) -> bool:
    """Have the journal take in all that a job has written, before it is told of the job's end.

    Return whether it has in time. Everybody else must have let go of the streams, which are closed.
    """
    from sdbox.journal.writer import all_received

    for stream in streams:
        # A line from another process ends one that is unfinished, and an empty one is not kept
        # (systemd's journald-stream.c). A journal that has gone is not waited for.
        with contextlib.suppress(OSError):
            stream.send(b"\n", socket.MSG_DONTWAIT)
    try:
        return await all_received(streams, _OUTPUT_SECONDS)
    finally:
        _close(streams)


def _no_journal(reason: str) -> Unenforceable:
    return Unenforceable(
        f"--output journal: the journal can't be reached: {reason}",
        hint="Start it (systemctl start systemd-journald.socket), or give --output a file",
    )
