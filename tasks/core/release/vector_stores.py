"""Open the vector store that the settings choose."""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.milvus.collection import TIMEOUT
from tasks.core.release.milvus.embedded import EmbeddedMilvus
from tasks.core.release.milvus.server import ServerMilvus
from tasks.core.release.publisher import Publisher


def open_publisher(home: Path, settings: MilvusSettings, *, patient: bool = False) -> Publisher:
    """Return a publisher for the Milvus server at `[milvus] uri`, or for milvus-lite below home if `uri` is empty.

    With `patient`, test searches may take longer than `[milvus] query_seconds`, which limits those of users: a server
    that has just loaded a large collection is slow, and a timeout would discard what it has indexed.
    """
    if patient:
        settings = settings.model_copy(update={"query_seconds": max(TIMEOUT, settings.query_seconds)})
    return ServerMilvus(settings) if settings.uri else EmbeddedMilvus(home, settings)
