"""What is written to the journal's sockets, byte by byte; and where output may go."""

from __future__ import annotations

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.errors import InvalidDirective
from sdbox.journal.output import Output, parse, stream_header
from sdbox.journal.writer import encoded

FIRST = string.ascii_uppercase
NAMES = st.builds(
    str.__add__,
    st.sampled_from(FIRST),
    st.text(FIRST + string.digits + "_", max_size=63),
)
# Newlines more often than chance has them.
VALUES = st.one_of(
    st.binary(max_size=300),
    st.lists(st.binary(max_size=20), max_size=8).map(b"\n".join),
    st.text(max_size=100),
)


def decoded(data: bytes) -> list[tuple[str, bytes]]:
    """Read an entry as the protocol's description says: NAME=VALUE, or a size before the value."""
    fields = []
    while data:
        line, newline, rest = data.partition(b"\n")
        assert newline
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields.append((name.decode(), value))
        data = rest
    return fields


def as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_every_value_arrives_as_it_was(fields: list[tuple[str, str | bytes]]) -> None:
    assert decoded(encoded(fields)) == [(name, as_bytes(value)) for name, value in fields]


@given(st.binary(max_size=100))
def test_a_name_of_bytes_that_are_no_text_arrives(name: bytes) -> None:
    """As file names and arguments are, which Python holds with surrogates."""
    assert decoded(encoded([("FILE", os.fsdecode(name))])) == [("FILE", name)]


def test_the_two_forms_of_a_field() -> None:
    assert encoded([("MESSAGE", "one line")]) == b"MESSAGE=one line\n"
    assert encoded([("MESSAGE", "a\nb")]) == b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n"
    assert encoded([("EMPTY", "")]) == b"EMPTY=\n"


@pytest.mark.parametrize("name", ["", "_PID", "1A", "a", "A B", "A=B", "A\n", "É", "A" * 65, "A-B"])
def test_no_field_of_another_name_is_written(name: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        encoded([(name, "x")])


@given(st.text(), st.integers(0, 7))
def test_a_stream_begins_with_seven_lines(identifier: str, priority: int) -> None:
    header = stream_header(identifier=identifier, unit="sdbox-1.scope", priority=priority)
    first, *others = header.split(b"\n")
    assert others == [b"sdbox-1.scope", b"%d" % priority, b"1", b"0", b"0", b"0", b""]
    # systemd's journald-stream.c hangs up on longer ones.
    assert len(first) <= 254
    assert b"\0" not in first


OUTPUTS = {
    "inherit": Output(kind="inherit"),
    "null": Output(kind="null"),
    "journal": Output(kind="journal"),
    "out.log": Output(kind="file", path="out.log", flags=os.O_TRUNC),
    "./journal": Output(kind="file", path="./journal", flags=os.O_TRUNC),
    "/tmp/a:b": Output(kind="file", path="/tmp/a:b", flags=os.O_TRUNC),
    "file:/tmp/a": Output(kind="file", path="/tmp/a"),
    "append:a b": Output(kind="file", path="a b", flags=os.O_APPEND),
    "truncate:append:x": Output(kind="file", path="append:x", flags=os.O_TRUNC),
}


@pytest.mark.parametrize("text", OUTPUTS)
def test_where_output_goes(text: str) -> None:
    assert parse(text) == OUTPUTS[text]


@pytest.mark.parametrize("text", ["", "file:", "append:", "a\0b"])
def test_what_is_no_place_for_output(text: str) -> None:
    with pytest.raises(InvalidDirective, match="--output"):
        parse(text)
