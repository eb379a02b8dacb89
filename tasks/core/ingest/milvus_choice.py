"""Chooses the index and the Milvus of a collection by its number of passages."""

from __future__ import annotations

from tasks.core.base.sections.release import MilvusSettings
from tasks.core.base.toml import toml_value

FLAT_MOST = 50_000  # passages that FLAT in the embedded Milvus searches in about 0.1 s
EMBEDDED_MOST = 100_000  # passages that the embedded Milvus is meant for


def milvus_lines(passages: int, uri: str) -> list[str]:
    """Return the section `[milvus]` of a settings file for this number of passages, with comments; [] if it is empty.

    uri: address of a Milvus server; empty: the embedded Milvus.
    """
    lines = []
    if uri:
        lines.append(f"uri = {toml_value(uri)}")
        if passages > EMBEDDED_MOST:
            lines.append('index = "HNSW"'.ljust(32) + "# the fastest search; its graph is in the memory of the server")
    elif passages > FLAT_MOST:
        lines.append('index = "IVF_FLAT"'.ljust(32) + "# faster than FLAT, which compares every query with all vectors")
    if not uri and passages > EMBEDDED_MOST:
        lines.append(
            '# uri = "http://127.0.0.1:19530"'.ljust(32)
            + " # a Milvus server: the embedded Milvus is slow for this many passages"
        )
    return ["", "[milvus]", *lines] if lines else []


def warn_of_embedded_limit(passages: int, milvus: MilvusSettings) -> list[str]:
    """Return a warning when a collection is too large for the embedded Milvus."""
    if milvus.uri or passages <= EMBEDDED_MOST:
        return []
    faster = "" if milvus.index != "FLAT" else ' Until then, [milvus] index = "IVF_FLAT" is faster than FLAT.'
    return [
        f"{passages:,} passages are too many for the embedded Milvus, which is meant for {EMBEDDED_MOST:,}: each "
        "search takes a second or more, and each searching process holds all vectors. Start a Milvus server "
        f"(infra/docs/sizing.md), and set [milvus] uri to its address.{faster}"
    ]
