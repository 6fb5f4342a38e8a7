"""Plain values as JSON text, without the json module: importing that costs more than a launch has.

Pure. What reads JSON uses the json module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_SHORT = {'"': '\\"', "\\": "\\\\"}


def encode(value: Any) -> str:
    """Return the JSON, in ASCII, of None, bool, numbers, text, mappings and sequences of these.

    Surrogates stay what they are, so that bytes that are not UTF-8 come back (PEP 383). A number
    that JSON has no word for is null.
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        # Not an enumeration's own.
        return int.__repr__(value)
    if isinstance(value, float):
        # Not so for infinity and for what is no number.
        return float.__repr__(value) if value - value == 0 else "null"
    if hasattr(value, "items"):
        return _joined("{}", (f"{_text(str(key))}:{encode(one)}" for key, one in value.items()))
    return _joined("[]", map(encode, value))


def _joined(brackets: str, items: Iterable[str]) -> str:
    return f"{brackets[0]}{','.join(items)}{brackets[1]}"


def _text(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_character, text))}"'


def _character(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0x20 <= code < 0x7F:
        return character
    if code < 0x10000:
        return f"\\u{code:04x}"
    # RFC 8259: a pair of surrogates.
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
