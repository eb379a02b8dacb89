"""What may happen to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Lose the second half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    """Lose all bytes."""
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    """Hold other bytes."""
    file.write_bytes(b"\xff\xfe{[" + bytes(range(256)))


HARMS: Mapping[str, Callable[[Path], object]] = {
    "flipped": flip, "cut": cut, "emptied": empty, "garbage": garbage, "deleted": Path.unlink
}  # fmt: skip
