"""The result of one rule of a data contract."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RuleCount(BaseModel):
    """Result of a contract rule: rows it rejected (`error`), reported (`warn`), or merged as equal copies (`merge`).

    A rule for a whole table checks a single number instead: `checked_rows` is false, and `checked` is 1 or 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    rule: str
    severity: str
    checked: int
    failed: int
    checked_rows: bool = True
    description: str = ""  # fault of a row that fails
    statement: str = ""  # property of a row that passes
    observed: str = ""  # checked number, or fraction of failed rows
    threshold: str = ""  # allowed value
    offenders: tuple[str, ...] = ()  # first failed rows, as file:row
