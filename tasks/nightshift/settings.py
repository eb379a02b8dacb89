"""Settings of a function call: the defaults of a night, changed by keyword arguments, never by the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.core.base.errors import NightshiftError
from tasks.core.base.setting_faults import explain_faults
from tasks.core.base.settings import Settings

HOME = Path("var/python")  # relative to the working directory


def settings_for(home: Path, **sections: dict[str, Any]) -> Settings:
    """Settings of `home` with changed sections: `settings_for(home, training={"epochs": 2})`.

    Raises:
        NightshiftError: a setting is unknown or out of range; the message names it.
    """
    values: dict[str, Any] = {"home": home}
    for name, changes in sections.items():
        section = type(Settings.model_fields[name].default)
        try:
            values[name] = section(**changes)
        except ValidationError as error:
            raise NightshiftError(f"settings are invalid:\n{explain_faults(error, Settings, name)}") from error
    return Settings.model_construct(**values)
