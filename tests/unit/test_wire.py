"""Messages between supervisor, helper and init, on real sockets."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.init import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 16384
MOST_FDS = 16
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs
    assert descriptors() == before, "a descriptor has leaked"


def descriptors() -> set[str]:
    # Of these one is that of the listing itself.
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}


def send_raw(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """As somebody who does not keep to the rules would."""
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def test_fields(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, "exited", 256, b"\xff\n ", "", "ü\udcff", -1)
    assert wire.receive(theirs) == (
        [b"exited", b"256", b"\xff\n ", b"", b"\xc3\xbc\xff", b"-1"],
        [],
    )


@given(st.lists(st.binary(max_size=20).filter(lambda field: b"\0" not in field), min_size=1))
def test_fields_arrive_as_they_were_sent(fields: list[bytes]) -> None:
    # A message without a byte is how a socket says that the other side is gone.
    fields = [b"message", *fields]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.settimeout(10)
        wire.send(ours, *fields)
        assert wire.receive(theirs) == (fields, [])


def test_messages_do_not_run_together(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, "one", 1)
    wire.send(ours, "two", 2)
    assert wire.receive(theirs)[0] == [b"one", b"1"]
    assert wire.receive(theirs)[0] == [b"two", b"2"]


def test_descriptors_arrive_and_are_closed_on_exec(pair: Pair) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    wire.send(ours, "started", fds=(reader, writer))
    fields, fds = wire.receive(theirs)
    assert fields == [b"started"]
    assert len(fds) == 2
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    os.write(fds[1], b"x")
    assert os.read(reader, 1) == b"x"
    wire.close([reader, writer, *fds])


def test_the_most_descriptors(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, "many", fds=(theirs.fileno(),) * MOST_FDS)
    _, fds = wire.receive(theirs)
    assert len(fds) == MOST_FDS
    assert all(os.path.sameopenfile(fd, theirs.fileno()) for fd in fds)
    wire.close(fds)


def test_the_other_side_is_gone(pair: Pair) -> None:
    ours, theirs = pair
    ours.close()
    assert wire.receive(theirs) == ([], [])


def test_the_other_side_went_without_reading(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, "unread")
    theirs.close()
    # ECONNRESET, which says no more than an end.
    assert wire.receive(ours) == ([], [])


def test_what_was_sent_before_the_end_is_read_first(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, "last", "words")
    ours.close()
    assert wire.receive(theirs) == ([b"last", b"words"], [])
    assert wire.receive(theirs) == ([], [])


def test_what_was_sent_before_an_end_without_reading_is_read_first(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, "unread")
    wire.send(theirs, "last", "words")
    theirs.close()
    assert wire.receive(ours) == ([b"last", b"words"], [])
    assert wire.receive(ours) == ([], [])


def test_the_largest_message(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, b"x" * LARGEST)
    assert wire.receive(theirs) == ([b"x" * LARGEST], [])


@pytest.mark.parametrize("count", [0, 1, MOST_FDS])
def test_a_longer_message_is_refused_and_leaks_nothing(pair: Pair, count: int) -> None:
    ours, theirs = pair
    before = descriptors()
    wire.send(ours, b"x" * (LARGEST + 1), fds=(theirs.fileno(),) * count)
    with pytest.raises(ValueError, match="cut short"):
        wire.receive(theirs)
    assert descriptors() == before


@pytest.mark.parametrize("count", [MOST_FDS + 1, MOST_FDS + 2, 253])
def test_too_many_descriptors_are_refused_and_leak_nothing(pair: Pair, count: int) -> None:
    ours, theirs = pair
    before = descriptors()
    wire.send(ours, "many", fds=(theirs.fileno(),) * count)
    with pytest.raises(ValueError, match="cut short"):
        wire.receive(theirs)
    assert descriptors() == before


def test_after_a_refusal_the_next_message_is_whole(pair: Pair) -> None:
    ours, theirs = pair
    wire.send(ours, b"x" * (LARGEST + 1))
    wire.send(ours, "next")
    with pytest.raises(ValueError, match="cut short"):
        wire.receive(theirs)
    assert wire.receive(theirs) == ([b"next"], [])


def test_descriptors_without_a_word_are_not_lost(pair: Pair) -> None:
    ours, theirs = pair
    send_raw(ours, b"", [theirs.fileno()])
    fields, fds = wire.receive(theirs)
    assert fields == []
    assert len(fds) == 1
    wire.close(fds)


def test_other_ancillary_data_is_no_descriptor(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    ours.sendmsg([b"who"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
    assert wire.receive(theirs) == ([b"who"], [])


def test_a_receiver_does_not_wait_when_it_is_told_not_to(pair: Pair) -> None:
    _, theirs = pair
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        wire.receive(theirs)


def test_a_sender_to_nobody(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        wire.send(ours, "anybody?")
