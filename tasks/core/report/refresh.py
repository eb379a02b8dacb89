"""Record of the passages that a night published, or withheld, without a new encoder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.core.base.receipts import Release
from tasks.core.drift.findings import Changes


class Refresh(BaseModel):
    """The changed passages of a rejected or suspect night, and the release that contains them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: Changes
    release: Release | None = None  # with the serving encoder; None: they were withheld
    withheld: str = ""  # the reason

    def __str__(self) -> str:
        changes = self.passages
        counts = f"{changes.new:,} new, {changes.changed:,} changed, {changes.gone:,} deleted"
        passages = f"{changes.total:,} {'passage' if changes.total == 1 else 'passages'} ({counts})"
        if self.release is not None:
            return f"published {passages} with the serving encoder as release {self.release.release}"
        return f"did not publish {passages}: {self.withheld}"
