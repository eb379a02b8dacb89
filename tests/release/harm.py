"""What a disk or a person does to a file: in place, so that every hard link of it is harmed too."""

from __future__ import annotations

from pathlib import Path


def flip(file: Path, at: float = 0.5) -> None:
    """Invert a byte; `at` is its place as a share of the file."""
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
