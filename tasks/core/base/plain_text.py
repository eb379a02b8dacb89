"""Validates text from outside, and displays untrusted text safely."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all except tab and line feed
_PICTURES = 0x2400  # the block of pictures for control characters: U+241B is ␛


def check_text(text: str) -> str:
    """Return `text` unchanged if it is valid.

    Raises:
        ValueError: it contains NUL, or half of a surrogate pair, which UTF-8 cannot encode.
    """
    if "\0" in text:
        raise ValueError("it holds a NUL character, which no text can hold")
    if (half := _HALF.search(text)) is not None:
        raise ValueError(f"it holds {visible(half.group())}, which is half of a character and no UTF-8")
    return text


def visible(text: str) -> str:
    r"""Replace control characters by visible ones: ESC by ␛, others by \x9b or \ud83d. Tabs and line feeds stay.

    So text cannot change a terminal's colors, title, or cursor.
    """
    return _CONTROL.sub(lambda match: _picture(ord(match.group())), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == 0x7F:
        return "␡"
    if 0xDC80 <= code <= 0xDCFF:  # Python decodes an invalid byte of the command line to this
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
