"""Text from outside: the one check that every entrance makes, and how text is shown that may hold anything."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and line feed
_PICTURES = 0x2400  # the block of pictures for control characters: U+241B is ␛


def check_text(text: str) -> str:
    """Return the text if UTF-8 can hold it. Raises ValueError for NUL and for halves of surrogate pairs."""
    if "\0" in text:
        raise ValueError("it holds a NUL character, which no text can hold")
    if (half := _HALF.search(text)) is not None:
        raise ValueError(f"it holds {visible(half.group())}, which is half of a character and no UTF-8")
    return text


def visible(text: str) -> str:
    r"""Show control characters instead of sending them: ESC as ␛, others as \x9b or \ud83d; tabs and line feeds stay.

    What a terminal would obey (colors, titles, the cursor) becomes something to read.
    """
    return _CONTROL.sub(lambda match: _picture(ord(match.group())), text)


def _picture(code: int) -> str:
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == 0x7F:
        return "␡"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python hands it over from the command line
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
