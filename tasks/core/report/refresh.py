"""Record of the passages that a night published, or withheld, without a new encoder."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.core.base.receipts import Release
from tasks.core.drift.findings import Changes


class Refresh(BaseModel):
    """The changed passages of a rejected or suspect night, and the release that contains them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: Changes
    release: Release | None = None  # with an encoder that was not trained tonight; None: they were withheld
    withheld: str = ""  # the reason
    with_base: bool = False  # with the base model: no release served before, and no training was accepted

    def __str__(self) -> str:
        changes = self.passages
        counts = f"{changes.new:,} new, {changes.changed:,} changed, {changes.gone:,} deleted"
        passages = f"{changes.total:,} {'passage' if changes.total == 1 else 'passages'} ({counts})"
        if self.release is not None:
            encoder = "the base model and BM25" if self.with_base else "the serving encoder"
            return f"published {passages} with {encoder} as release {self.release.release}"
        return f"did not publish {passages}: {self.withheld}"
