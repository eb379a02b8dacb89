"""Receipt of training pairs that were made from passages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tasks.core.base.receipts import Receipt


class Synthesis(Receipt):
    """Training pairs made from the passages of a snapshot, and the pairs that a rule dropped, each with the rule.

    `pairs.parquet` has a row per candidate: query_id, passage_id, origin, query, the rank of the passage without the
    query for BM25 and the base model (0: below `[synthetic] top`), `rule` (empty: kept), and split (empty: dropped).
    """

    shelf: ClassVar[str] = "synthetic"
    tables: ClassVar[Mapping[str, str]] = {"pairs.parquet": "rows"}

    snapshot: str  # of the passages
    passages: int  # that pairs were made from
    kept: dict[str, int]  # origin -> pairs
    dropped: dict[str, int]  # rule -> candidates
    held_out: int  # kept pairs in the split "synthetic"

    @property
    def summary(self) -> str:
        """Sentence with the number of kept and dropped pairs."""
        kept = ", ".join(f"{count:,} {origin}" for origin, count in self.kept.items())
        dropped = ", ".join(f"{count:,} {rule.replace('_', ' ')}" for rule, count in self.dropped.items()) or "none"
        return (
            f"Made {sum(self.kept.values()):,} synthetic pairs from {self.passages:,} passages ({kept}); "
            f"{self.held_out:,} of them are held out; dropped: {dropped}"
        )
