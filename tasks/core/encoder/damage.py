"""Detect damaged encoder files and explain how to restore them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.encoder.model_files import MODULES, read_steps


def damaged(reason: str) -> Damaged:
    """Return the error for damaged encoder files: the reason and the next steps."""
    return Damaged(
        f"{reason}. Restore the encoder's folder from a backup, or serve the previous release: nightshift rollback. To "
        "rebuild the encoder, delete its folder and run a night."
    )


def read_sealed_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file that Nightshift wrote.

    Raises Damaged when the file is missing, cannot be parsed, or is not a JSON object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(f"{file}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise damaged(f"{file}: not a JSON object")
    return value


def check_readable(folders: Iterable[Path]) -> None:
    """Check the files in the model folders of an encoder before loading, so that an error names the file.

    Raises Damaged for the first file that is missing or is not valid JSON.
    """
    for folder in folders:
        for pattern in ("config.json", "tokenizer*.json", "*.safetensors"):
            if not any(folder.glob(pattern)):
                raise damaged(f"{folder}: {pattern} is missing")
        for file in (folder / "config.json", *sorted(folder.glob("tokenizer*.json"))):
            read_sealed_json(file)
        try:
            read_steps(folder)
        except NightshiftError as error:
            raise damaged(f"{folder / MODULES}: cannot be read ({error})") from error
