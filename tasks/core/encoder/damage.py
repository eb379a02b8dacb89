"""Damage to the files of an encoder, in words."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.core.base.errors import Damaged


def damaged(reason: str) -> Damaged:
    """The error about damaged files of an encoder, with what to do about them."""
    return Damaged(
        f"{reason}. Restore the encoder's folder from a copy, or serve the release before: nightshift rollback. To "
        "make the encoder again, remove its folder and run a night."
    )


def read_sealed_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file that Nightshift wrote.

    Raises Damaged when it is missing or holds anything else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(f"{file}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise damaged(f"{file}: not a JSON object")
    return value


def check_readable(folders: Iterable[Path]) -> None:
    """Look into the model folders of an encoder, so that an error names the file.

    Raises Damaged for the first file that is missing, or is not the JSON that it should be.
    """
    for folder in folders:
        for pattern in ("config.json", "tokenizer*.json", "*.safetensors"):
            if not any(folder.glob(pattern)):
                raise damaged(f"{folder}: {pattern} is missing")
        for file in (folder / "config.json", *sorted(folder.glob("tokenizer*.json"))):
            read_sealed_json(file)
