"""Systems that a night evaluates on the same queries."""

from __future__ import annotations

from enum import StrEnum


class System(StrEnum):
    """Evaluated systems, in the order of tables and charts."""

    CHALLENGER = "challenger"
    SERVING = "serving"  # the serving release; not evaluated before the first release
    BASE = "base"  # the base model
    BM25 = "bm25"
