"""Types for settings that name files, folders, or models. Expands `~` and resolves relative paths.

Relative paths in a settings file start at its folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

log = logging.getLogger("nightshift.settings")


class Names(Enum):
    """Kind of value that a setting names."""

    PATH = "a local file or folder"
    LOCATION = "a local file or folder, or an address such as s3://bucket/folder"
    MODEL = "a local folder, or a model of the Hugging Face Hub"


def _expand(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{value}: this user has no home folder on this machine") from error


def _expand_path(value: Any) -> Any:
    if value == "":
        raise ValueError("the path is empty; give a path, or omit the setting")
    return _expand(value)


LocalPath = Annotated[Path, BeforeValidator(_expand_path), Names.PATH]
OptionalPath = Annotated[Path | None, BeforeValidator(_expand_path), Names.PATH]
OptionalLocation = Annotated[Path | str | None, BeforeValidator(_expand_path), Names.LOCATION]
Location = Annotated[Path | str, BeforeValidator(_expand_path), Names.LOCATION]
LocationText = Annotated[str, BeforeValidator(_expand), Names.LOCATION]
ModelName = Annotated[str, BeforeValidator(_expand), Names.MODEL]


class Written(NamedTuple):
    """A relative path of a settings file: its text, and the absolute path that replaced it."""

    text: str
    absolute: str


def resolve_paths(values: dict[str, Any], settings: type[BaseModel], folder: Path) -> dict[str, Written]:
    """Replace relative paths from a settings file in `folder` by absolute paths.

    If `folder` is the working directory, nothing changes. A path that exists only below the working directory stays
    relative, with a warning, because earlier versions started relative paths there.

    Args:
        values: Tables of the file; changed in place.
        settings: Settings model for these values.
        folder: Folder of the settings file.

    Returns:
        The replaced paths by dotted name, such as "encoder.model".
    """
    written: dict[str, Written] = {}
    if folder.resolve() == Path.cwd():
        return written
    for table, key, dotted, names in _path_settings(values, settings, ""):
        text = table[key]
        if text.startswith("~") or "://" in text or not text or Path(text).is_absolute():
            continue
        absolute = folder.resolve() / text
        if absolute.exists() or (names is not Names.MODEL and not Path(text).exists()):
            table[key], written[dotted] = str(absolute), Written(text, str(absolute))
        elif Path(text).exists():
            _warn(
                f'{dotted} = "{text}": not found in {folder.resolve()}, the folder of the settings file. '
                f"Using the path in the working directory: {Path(text).absolute()}. Relative paths in a settings file "
                "start at its folder: write an absolute path, or move the settings file."
            )
    return written


@cache
def _warn(message: str) -> None:
    """Log a warning once per process, because a command and its flow both load the settings."""
    log.warning(message)


def _path_settings(
    values: Mapping[str, Any], section: type[BaseModel], prefix: str
) -> Iterator[tuple[Any, str, str, Names]]:
    """Yield (table, key, dotted name, kind) of the paths in `values`."""
    for key, field in section.model_fields.items():
        value = values.get(key)
        if isinstance(value, Mapping) and (below := section_of(field)) is not None:
            yield from _path_settings(value, below, f"{prefix}{key}.")
        if isinstance(value, list) and (entry := _entry_of(field)) is not None:
            for number, table in enumerate(value):
                if isinstance(table, Mapping):
                    yield from _path_settings(table, entry, f"{prefix}{key}.{number}.")
        names = next((mark for mark in field.metadata if isinstance(mark, Names)), None)
        if names is not None and isinstance(value, str):
            yield values, key, f"{prefix}{key}", names


def _entry_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of the entries of a setting that is a list of tables, such as `[[data.sources]]`."""
    kind = next(iter(get_args(field.annotation)), None)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a setting that is itself a table of settings; None for other settings."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
