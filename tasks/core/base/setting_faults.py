"""Describes invalid settings: the key or variable, its value, the allowed values, and a likely correction."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from tasks.core.base.errors import BadUsage
from tasks.core.base.plain_text import check_text, visible
from tasks.core.base.setting_paths import section_of

PREFIX = "NIGHTSHIFT_"
# Variables that are not settings; read by the command, by infra/bootstrap.py, and by the tests.
NO_SETTINGS = ("NIGHTSHIFT_SETTINGS", "NIGHTSHIFT_DEBUG", "NIGHTSHIFT_ALERT_URL")
TESTS = "NIGHTSHIFT_TEST_"
# Kubernetes and Docker set such variables in containers next to a service whose name starts with "nightshift".
_SERVICE_LINK = re.compile(
    r"NIGHTSHIFT_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?|NAME)"
)


def check_environment(settings: type[BaseModel]) -> None:
    """Check that every NIGHTSHIFT_… variable is a setting, so that a typo is not silently ignored.

    Raises:
        BadUsage: a variable is not a setting, or its value is not UTF-8 text.
    """
    known = list(_variables(settings, PREFIX))
    faults = []
    for name, value in os.environ.items():
        if not name.upper().startswith(PREFIX):
            continue
        if not _is_known(name.upper(), known):
            near = get_close_matches(name.upper(), [*known, *NO_SETTINGS], n=1)
            meant = f" Did you mean {near[0]}?" if near else ""
            faults.append(f"  {visible(name)}: no such setting.{meant}")
            continue
        try:
            check_text(value)
        except ValueError as error:
            faults.append(f"  {name} = {visible(value)}: {error}. Use UTF-8 text.")
    if faults:
        raise BadUsage(
            "invalid environment variables:\n" + "\n".join(faults) + "\n"
            "nightshift settings lists all settings. [data] path is NIGHTSHIFT_DATA__PATH in the environment."
        )


def explain_faults(error: ValidationError, settings: type[BaseModel], *within: str) -> str:
    """Return one line per fault: the key, its value, and the allowed values. `within` is the section, if only one."""
    faults = (_explain(fault, settings, [*within, *fault["loc"]]) for fault in error.errors())
    return "\n".join(dict.fromkeys(f"  {fault}" for fault in faults))


def _variables(section: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield the variable names of all settings and sections (a section can be set as JSON)."""
    for key, field in section.model_fields.items():
        name = f"{prefix}{key.upper()}"
        yield name
        if (below := section_of(field)) is not None:
            yield from _variables(below, f"{name}__")


def _is_known(name: str, known: list[str]) -> bool:
    """Return whether a variable is a setting, an entry of one such as …INDEX_PARAMS__M, or not meant as a setting."""
    if name in known or name in NO_SETTINGS or name.startswith(TESTS) or _SERVICE_LINK.fullmatch(name):
        return True
    longest = max((setting for setting in known if name.startswith(f"{setting}__")), key=len, default=None)
    return longest is not None and not any(setting.startswith(f"{longest}__") for setting in known)


def _explain(fault: Any, settings: type[BaseModel], place: Sequence[str | int]) -> str:
    section: type[BaseModel] = settings
    keys: list[str] = []
    secret = False
    for part in place:
        field = section.model_fields.get(str(part))
        if field is None:
            break
        keys.append(str(part))
        secret = field.annotation is SecretStr
        section = section_of(field) or section
    unknown = fault["type"] == "extra_forbidden"
    if unknown:
        keys.append(str(place[-1]))
    given = fault["input"]
    shown = f" = {given!r}" if isinstance(given, str | int | float) and not secret and not _is_ours(fault) else ""
    if unknown:
        near = get_close_matches(keys[-1], list(section.model_fields), n=1)
        meant = f"Did you mean {near[0]}?" if near else "nightshift settings lists all settings."
        return f"{_name(keys)}{shown}: no such setting. {meant}"
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if reason.startswith(f"{_name(keys)} "):  # a check of a whole section names the setting itself
        return reason
    return f"{_name(keys)}{shown}: {reason[:1].lower()}{reason[1:]}"


def _is_ours(fault: Any) -> bool:
    """Return whether our own validator rejected the value: its message is complete and omits secrets."""
    return bool(fault["type"] == "value_error")


def _name(keys: list[str]) -> str:
    variable = PREFIX + "__".join(keys).upper()
    if variable in {name.upper() for name in os.environ}:
        return variable
    if len(keys) < 2:
        return f"[{keys[0]}]" if keys else "settings"
    return f"[{'.'.join(keys[:-1])}] {keys[-1]}"
