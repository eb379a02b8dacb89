"""Every dial with its meaning and its value, as the settings file that would say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

WIDTH = 100  # of a comment, in characters


def dials(settings: BaseModel) -> str:
    """TOML that loads to equal settings. Secrets are left out, and dials without a value are commented out."""
    return "\n".join(_table(settings, "")) + "\n"


def _table(section: BaseModel, name: str) -> Iterator[str]:
    fields = type(section).model_fields
    below = [key for key in fields if isinstance(getattr(section, key), BaseModel)]
    if name:
        yield from ("", f"[{name}]")
    for key, field in fields.items():
        if key not in below:
            yield from _dial(key, field, getattr(section, key))
    for key in below:
        yield from _table(getattr(section, key), f"{name}.{key}" if name else key)


def _dial(key: str, field: FieldInfo, value: object) -> Iterator[str]:
    about = field.description or ""
    if get_origin(field.annotation) is Literal:
        about += f" [{', '.join(map(str, get_args(field.annotation)))}]"
    yield from (f"# {line}" for line in wrap(about, WIDTH))
    secret = isinstance(value, SecretStr)
    yield f"# {key} = …" if secret or value is None else f"{key} = {_written(value)}"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{json.dumps(name)} = {_written(one)}" for name, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Path | str):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_written, value))}]"
    return json.dumps(value)
