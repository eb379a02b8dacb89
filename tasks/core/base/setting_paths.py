"""Settings that name files, folders and models: `~` is expanded, relative ones begin at the settings file."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

log = logging.getLogger("nightshift.settings")


class Names(Enum):
    """What the text of a setting names."""

    PATH = "a file or folder here"
    LOCATION = "a file or folder here, or an address such as s3://bucket/folder"
    MODEL = "a folder here, or a model of the hub"


def _expand(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{value}: no user of this name has a home folder here") from error


def _expand_path(value: Any) -> Any:
    if value == "":
        raise ValueError("it is empty; name a path, or leave it out")
    return _expand(value)


LocalPath = Annotated[Path, BeforeValidator(_expand_path), Names.PATH]
OptionalPath = Annotated[Path | None, BeforeValidator(_expand_path), Names.PATH]
OptionalLocation = Annotated[Path | str | None, BeforeValidator(_expand_path), Names.LOCATION]
LocationText = Annotated[str, BeforeValidator(_expand), Names.LOCATION]
ModelName = Annotated[str, BeforeValidator(_expand), Names.MODEL]


class Written(NamedTuple):
    """A relative path of a settings file: its text there, and the absolute path that it was replaced by."""

    text: str
    absolute: str


def resolve_paths(values: dict[str, Any], settings: type[BaseModel], folder: Path) -> dict[str, Written]:
    """Replace relative paths in `values`, which were read from a settings file in `folder`, by absolute ones.

    Nothing changes when `folder` is the working directory. A path that exists only below the working directory, where
    earlier versions looked for it, is left as it is, with a warning.

    Args:
        values: The tables of the file; changed in place.
        settings: The model that they are for.
        folder: The folder of the settings file.

    Returns:
        What was replaced, by setting, such as "encoder.model".
    """
    written: dict[str, Written] = {}
    if folder.resolve() == Path.cwd():
        return written
    for table, key, dotted, names in _path_settings(values, settings, ""):
        text = table[key]
        if text.startswith("~") or "://" in text or not text or Path(text).is_absolute():
            continue
        here = folder.resolve() / text
        if here.exists() or (names is not Names.MODEL and not Path(text).exists()):
            table[key], written[dotted] = str(here), Written(text, str(here))
        elif Path(text).exists():
            _warn(
                f'{dotted} = "{text}": not next to the settings file in {folder.resolve()}, but below the working '
                f"directory, which is used: {Path(text).absolute()}. Relative paths in a settings file begin at its "
                "folder: write an absolute path, or move the settings file."
            )
    return written


@cache
def _warn(message: str) -> None:
    """Log a warning once in this process: a command and its flow both load the settings."""
    log.warning(message)


def _path_settings(
    values: Mapping[str, Any], section: type[BaseModel], prefix: str
) -> Iterator[tuple[Any, str, str, Names]]:
    """Yield (table, key, dotted key, what it names) of the paths among `values`."""
    for key, field in section.model_fields.items():
        value = values.get(key)
        if isinstance(value, Mapping) and (below := section_of(field)) is not None:
            yield from _path_settings(value, below, f"{prefix}{key}.")
        names = next((mark for mark in field.metadata if isinstance(mark, Names)), None)
        if names is not None and isinstance(value, str):
            yield values, key, f"{prefix}{key}", names


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the model of a setting that is a table of settings; None for any other."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
