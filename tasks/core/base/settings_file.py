"""Reads the settings of a night from a TOML file and the environment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource
from pydantic_settings.exceptions import SettingsError

from tasks.core.base.errors import BadInput, BadUsage
from tasks.core.base.setting_faults import check_environment, explain_faults
from tasks.core.base.setting_paths import resolve_paths
from tasks.core.base.settings import Settings
from tasks.core.base.side_files import read_side_file

_DEMO = Path(__file__).parent / "demo.toml"


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings from defaults, a TOML file, and the environment; later sources override earlier ones.

    Without a file, `demo.toml` shortens a night over the demo collection. Relative paths in the file start at its
    folder, those in the environment at the working directory.

    Args:
        file: The TOML file; None: the file that NIGHTSHIFT_SETTINGS names, if any.

    Raises:
        BadUsage: a key or variable is unknown or out of range; the message lists all of them, and the file.
    """
    if file is None and (named := os.environ.get("NIGHTSHIFT_SETTINGS")):
        file = Path(named)
    check_environment(Settings)
    where = f"settings file {file}" if file else "settings from the environment"
    try:
        values = {} if file is None else tomllib.loads(_read_file(file.expanduser()))
        written = {} if file is None else resolve_paths(values, Settings, file.expanduser().parent)
        loaded = _below_environment(values)
        if file is None and loaded.data.format == "demo" and not loaded.data.sources:
            loaded = _below_environment(tomllib.loads(_DEMO.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadUsage(f"{where}: not valid TOML: {error}") from error
    except SettingsError as error:
        raise BadUsage(f"{where}: {error}: {error.__cause__}. Write lists and tables as JSON.") from error
    except ValidationError as error:
        raise BadUsage(f"{where}: invalid:\n{explain_faults(error, Settings)}") from error
    values = {name: getattr(loaded, name) for name in Settings.model_fields}
    return Settings.model_construct(**values).having_written(written)


def _below_environment(values: dict[str, Any]) -> Settings:
    """Return the settings with these values, which the environment overrides."""

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **more: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return more["env_settings"], InitSettingsSource(settings_cls, values)

    return FromFile()


def _read_file(file: Path) -> str:
    if not file.is_file():
        raise BadUsage(
            f"settings file {file}: not found. Set --settings or NIGHTSHIFT_SETTINGS to a TOML file, or omit both."
        )
    try:
        return read_side_file(file, "settings file").replace("\r\n", "\n")
    except BadInput as error:
        raise BadUsage(str(error)) from error
