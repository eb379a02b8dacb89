"""What every table of the settings file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the settings file; an unknown key is an error, so that a typo is never a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid")
