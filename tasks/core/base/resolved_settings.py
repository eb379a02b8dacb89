"""The settings in effect, as they are recorded with a night and its release, and what differs between two records.

Passwords and tokens are never part of a record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, SecretStr

Record = Mapping[str, Any]  # "mining.depth" -> 100: what JSON can hold

_PASSWORD = re.compile(r"(://[^/:@\s]*):[^/@\s]*@")  # of user:password@host
_OPTION = re.compile(r"([?&][^=&\s]*(?:secret|password|token|key)[^=&\s]*=)[^&\s]*", re.IGNORECASE)


class Change(BaseModel):
    """A setting whose value differs between two records; an empty value: the record does not have the setting."""

    model_config = ConfigDict(frozen=True)

    name: str
    before: str
    after: str


def resolve(settings: BaseModel) -> dict[str, Any]:
    """Every setting by its dotted name, without secrets."""
    return dict(_settings(settings, ""))


def differences(before: Record, after: Record) -> tuple[Change, ...]:
    """The settings that differ, in the order of `after`; those that only `before` has come last."""
    names = [*after, *(name for name in before if name not in after)]
    changed = [name for name in names if before.get(name, ...) != after.get(name, ...)]
    return tuple(Change(name=name, before=show(before, name), after=show(after, name)) for name in changed)


def show(record: Record, name: str) -> str:
    """A setting's value as text; empty when the record does not have it."""
    return json.dumps(record[name], ensure_ascii=False) if name in record else ""


def _settings(section: BaseModel, above: str) -> Iterator[tuple[str, Any]]:
    plain = section.model_dump(mode="json")
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            yield from _settings(value, f"{above}{key}.")
        elif not isinstance(value, SecretStr):
            yield f"{above}{key}", _without_secrets(plain[key])


def _without_secrets(value: Any) -> Any:
    return _OPTION.sub(r"\1…", _PASSWORD.sub(r"\1:…@", value)) if isinstance(value, str) else value
