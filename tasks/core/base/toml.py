"""Writes values of a settings file. What is written here, `tomllib` reads as the same value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.base.plain_text import check_text


def toml_value(value: Any) -> str:
    """Return a value as TOML on one line. Raises ValueError for text that UTF-8 cannot hold."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{toml_value(name)} = {toml_value(one)}" for name, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Path | str):
        # A string of JSON is one of TOML, but for DEL, which TOML wants escaped; no terminal obeys those after it.
        text = json.dumps(check_text(str(value)), ensure_ascii=False)
        return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match.group()):04x}", text)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf and nan, which JSON spells otherwise
    return json.dumps(value)
