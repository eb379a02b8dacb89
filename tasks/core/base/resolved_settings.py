"""Records the settings in effect with a night and its release, and compares two records.

A record never contains passwords or tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr

Record = Mapping[str, Any]  # "mining.depth" -> 100; values are JSON types

LOCAL = (  # settings of a machine, which shape no encoder
    *("mining.threads", "mining.heap_mb", "mining.shards"),
    *("training.processes", "training.launcher", "training.memory_tokens", "training.checkpoint_every"),
)

_PASSWORD = re.compile(r"(://[^/:@\s]*):[^/@\s]*@")  # in user:password@host
_OPTION = re.compile(r"([?&][^=&\s]*(?:secret|password|token|key)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


class Change(BaseModel):
    """A setting whose value differs between two records. An empty value means that the record has no such setting."""

    model_config = ConfigDict(frozen=True)

    name: str
    before: str
    after: str


def resolve(settings: BaseModel) -> dict[str, Any]:
    """Return all settings by dotted name, without secrets."""
    return dict(_flatten(settings, ""))


def differences(before: Record, after: Record) -> tuple[Change, ...]:
    """Return the settings that differ, in the order of `after`; settings only in `before` are last."""
    names = [*after, *(name for name in before if name not in after)]
    changed = [name for name in names if before.get(name, ...) != after.get(name, ...)]
    return tuple(Change(name=name, before=show(before, name), after=show(after, name)) for name in changed)


def name_changes(changes: Iterable[Change], sections: tuple[str, ...], limit: int = 3) -> str:
    """List the changes whose names begin with a section, such as "encoder."; the first `limit` with their values.

    Settings of the machine are left out.
    """
    chosen = [change for change in changes if change.name.startswith(sections) and change.name not in LOCAL]
    named = [f"{change.name} from {change.before or 'unset'} to {change.after or 'unset'}" for change in chosen[:limit]]
    return ", ".join(named + ([f"and {len(chosen) - limit} more"] if len(chosen) > limit else []))


def show(record: Record, name: str) -> str:
    """Return the value of a setting as JSON text; empty if the record has no such setting."""
    return json.dumps(record[name], ensure_ascii=False) if name in record else ""


def _flatten(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
    plain = section.model_dump(mode="json")
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, SecretStr):
            yield f"{prefix}{key}", _without_secrets(plain[key])


def _without_secrets(value: Any) -> Any:
    return _OPTION.sub(r"\1…", _PASSWORD.sub(r"\1:…@", value)) if isinstance(value, str) else value
