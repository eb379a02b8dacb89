"""Systems that a night evaluates on the same queries."""

from __future__ import annotations

from enum import StrEnum


class System(StrEnum):
    """Evaluated systems, in the order of tables and charts."""

    CHALLENGER = "challenger"
    DENSE = "dense"  # the encoder of the challenger alone
    SERVING = "serving"  # the serving release; not evaluated before the first release
    BASE = "base"  # the base model, ranking as it would without training
    BASE_DENSE = "base dense"  # the base model alone
    BM25 = "bm25"
