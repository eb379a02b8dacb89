"""Base class and common types of the tables in the settings file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A table of the settings file. Unknown keys are errors, so a typo is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
