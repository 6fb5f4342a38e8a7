r"""systemd's quoting (systemd.syntax(7)): words, quotes, and what a backslash does.

Two dialects. In Environment a backslash starts a C escape (`\n`, `\x41`, `\u00e9`); in paths it
takes the next character as it is. In both, quotes may open and close within a word.
"""

from __future__ import annotations

from sdbox.values import WHITESPACE, Refused, canonical

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Unescape = Callable[[str, int], tuple[str, int]]

_SIMPLE = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    "\\": "\\", '"': '"', "'": "'", "s": " ",
}  # fmt: skip
_CODES = {"x": 2, "u": 4, "U": 8}
_BAD_ESCAPE = "contains an unknown escape sequence"
_ESCAPE_HINT = r"Write \\ for a backslash"


def split_words(text: str, unescape: Unescape) -> list[str]:
    """The words of `text`, unquoted."""
    return [fields[0] for fields in split_fields(text, unescape, separator="")]


def split_fields(text: str, unescape: Unescape, *, separator: str = ":") -> list[list[str]]:
    """The words of `text`, each split at every `separator` that is not quoted or escaped."""
    words = []
    at = _skip_whitespace(text, 0)
    while at < len(text):
        fields, at = _word(text, at, unescape, separator)
        words.append([canonical(field) for field in fields])
        at = _skip_whitespace(text, at)
    return words


def _skip_whitespace(text: str, at: int) -> int:
    while at < len(text) and text[at] in WHITESPACE:
        at += 1
    return at


def _word(text: str, at: int, unescape: Unescape, separator: str) -> tuple[list[str], int]:
    fields, quote = [""], ""
    while at < len(text) and (quote or text[at] not in WHITESPACE):
        char = text[at]
        at += 1
        if char == "\\":
            char, at = unescape(text, at)
            fields[-1] += char
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
        elif not quote and char == separator:
            fields.append("")
        else:
            fields[-1] += char
    if quote:
        raise Refused("has a quote that is not closed", f"Close the {quote} or write \\{quote}")
    return fields, at


def literal_escape(text: str, at: int) -> tuple[str, int]:
    """A backslash takes the next character as it is: paths."""
    if at == len(text):
        raise Refused("ends in a backslash", _ESCAPE_HINT)
    return text[at], at + 1


def c_escape(text: str, at: int) -> tuple[str, int]:
    """A backslash starts a C escape: Environment."""
    kind = text[at : at + 1]
    if kind in _SIMPLE:
        return _SIMPLE[kind], at + 1
    if kind in _CODES:
        end = at + 1 + _CODES[kind]
        return _character(_code(text[at + 1 : end], 16, _CODES[kind]), byte=kind == "x"), end
    return _character(_code(text[at : at + 3], 8, 3), byte=True), at + 3


def _code(digits: str, base: int, length: int) -> int:
    allowed = "0123456789abcdefABCDEF" if base == 16 else "01234567"
    if len(digits) != length or digits.strip(allowed):
        raise Refused(_BAD_ESCAPE, _ESCAPE_HINT)
    return int(digits, base)


def _character(code: int, *, byte: bool) -> str:
    limit = 0x100 if byte else 0x110000
    if not 0 < code < limit or 0xD800 <= code < 0xE000:
        raise Refused(_BAD_ESCAPE, "Give the code of a character; NUL can't be given")
    # A byte from 0x80 on is kept as os.fsdecode keeps it, until the word's bytes are decoded.
    return chr(0xDC00 + code) if byte and code >= 0x80 else chr(code)


def quote_c(word: str) -> str:
    """`word` so that `split_words(…, c_escape)` gives it back; always printable."""
    if word and all(c.isalnum() or c in "_-+=./:,@%" for c in word):
        return word
    return '"' + "".join(map(_quoted_character, word)) + '"'


_ESCAPES = {c: "\\" + name for name, c in _SIMPLE.items() if c not in "' "}


def _quoted_character(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if 0xDC80 <= ord(char) <= 0xDCFF:
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char if char.isprintable() else f"\\U{ord(char):08x}"


def quote_literal(word: str) -> str:
    """`word` so that `split_words(…, literal_escape)` gives it back."""
    return escape_blanks(word.replace("\\", "\\\\"))


def escape_blanks(text: str) -> str:
    """`text`, whose backslashes already are escaped, with its blanks and quotes escaped."""
    return "".join("\\" + c if c in WHITESPACE + "'\"" else c for c in text)
