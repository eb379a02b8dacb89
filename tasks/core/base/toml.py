"""Formats values as TOML. `tomllib` reads them back unchanged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.core.base.plain_text import check_text


def toml_value(value: Any) -> str:
    """Return a value as TOML on one line.

    Raises:
        ValueError: a text contains NUL or cannot be encoded in UTF-8.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        inside = ", ".join(f"{toml_value(name)} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Path | str):
        # JSON strings are valid TOML except for DEL, which TOML requires to be escaped. The characters up to U+009F are
        # escaped too, because terminals interpret them.
        text = json.dumps(check_text(str(value)), ensure_ascii=False)
        return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match.group()):04x}", text)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf and nan, which JSON spells differently
    return json.dumps(value)
