"""Damage files in place, like a failing disk or a careless user, so that all their hard links are damaged too."""

from __future__ import annotations

from pathlib import Path


def flip(file: Path, at: float = 0.5) -> None:
    """Invert the bits of a byte at the relative position `at`, in [0, 1]."""
    place = int(at * (file.stat().st_size - 1))
    with file.open("r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ 0x7F]))


def truncate(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size // 2)


def empty(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.truncate(0)


def delete(file: Path) -> None:
    file.unlink()


HARMS = (flip, truncate, empty, delete)
