"""Prints every setting with its description and value, as a settings file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tasks.core.base.toml import toml_value

WIDTH = 100  # characters per comment line


def format_settings(settings: BaseModel) -> str:
    """Return TOML that loads to equal settings. Paths are absolute.

    Secrets and settings without a value are commented out.
    """
    return "\n".join(_table(settings, "")) + "\n"


def _table(section: BaseModel, name: str) -> Iterator[str]:
    fields = type(section).model_fields
    below = [key for key in fields if isinstance(getattr(section, key), BaseModel)]
    if name:
        yield from ("", f"[{name}]")
    for key, field in fields.items():
        if key not in below:
            yield from _setting(key, field, getattr(section, key))
    for key in below:
        yield from _table(getattr(section, key), f"{name}.{key}" if name else key)


def _setting(key: str, field: FieldInfo, value: object) -> Iterator[str]:
    about = field.description or ""
    if get_origin(field.annotation) is Literal:
        about += f" [{', '.join(map(str, get_args(field.annotation)))}]"
    yield from (f"# {line}" for line in wrap(about, WIDTH))
    if isinstance(value, Path):
        value = value.absolute()  # the same folder for any location of the printed file
    secret = isinstance(value, SecretStr)
    yield f"# {key} = …" if secret or value is None else f"{key} = {toml_value(value)}"
