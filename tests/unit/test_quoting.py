from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdbox.values import Refused, canonical
from sdbox.values.quoting import (
    c_escape,
    literal_escape,
    quote_c,
    quote_literal,
    split_fields,
    split_words,
)

# What os.fsdecode can give: any text without NUL, bytes that are not UTF-8 as surrogates.
decoded = st.binary().map(lambda b: b.replace(b"\0", b"").decode("utf-8", "surrogateescape"))

# Compared with what systemd 252 makes of the same lines: see tests/integration.
C_WORDS = [
    ("", []),
    (" \t\n ", []),
    ("a b\tc", ["a", "b", "c"]),
    ('A="b c"', ["A=b c"]),
    ("'D=\\x41\\tq'", ["D=A\tq"]),
    ("F=a'b c'd", ["F=ab cd"]),
    ("G=$HOME %h", ["G=$HOME", "%h"]),
    (r"H=\101\s\u00e9\U0001f600", ["H=A é😀"]),
    (r"I=\xc3\xa9", ["I=é"]),
    (r"J=\xff", ["J=\udcff"]),
    ('""', [""]),
    ("\"'\" '\"'", ["'", '"']),
]


@pytest.mark.parametrize(("text", "words"), C_WORDS)
def test_words_with_c_escapes(text: str, words: list[str]) -> None:
    assert split_words(text, c_escape) == words


@pytest.mark.parametrize(
    "text",
    [
        '"a',
        "'a",
        "\\",
        "a\\",
        r"\q",
        r"\x4",
        r"\xg0",
        r"\x00",
        r"\18",
        r"\400",
        r"\000",
        r"\u12",
        r"\ud800",
        r"\U00110000",
        r"\u0000",
        r"\x+1",
        r"\x 1",
    ],
)
def test_bad_quoting_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        split_words(text, c_escape)


def test_in_paths_a_backslash_takes_the_next_character() -> None:
    assert split_words(r"/a\ b /c\n \"", literal_escape) == ["/a b", "/cn", '"']
    with pytest.raises(Refused):
        split_words("/a\\", literal_escape)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/a:/b", [["/a", "/b"]]),
        (r"/a\:b:/c", [["/a:b", "/c"]]),
        ("'/a:b':/c /d", [["/a:b", "/c"], ["/d"]]),
        ("/a:", [["/a", ""]]),
        (":", [["", ""]]),
    ],
)
def test_fields_end_at_colons_that_are_bare(text: str, words: list[list[str]]) -> None:
    assert split_fields(text, literal_escape) == words


@given(st.lists(decoded))
def test_words_quoted_in_c_read_back(words: list[str]) -> None:
    assert split_words(" ".join(map(quote_c, words)), c_escape) == words


@given(decoded)
def test_words_quoted_in_c_are_printable(word: str) -> None:
    assert quote_c(word).isprintable()


@given(st.lists(decoded.filter(bool)))
def test_words_quoted_as_paths_read_back(words: list[str]) -> None:
    assert split_words(" ".join(map(quote_literal, words)), literal_escape) == words


@given(st.text())
def test_any_text_is_split_or_refused(text: str) -> None:
    for escape in (c_escape, literal_escape):
        try:
            words = split_words(text, escape)
        except Refused:
            continue
        assert words == [canonical(word) for word in words]
