"""Open the vector store that the settings choose."""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.milvus.embedded import EmbeddedMilvus
from tasks.core.release.milvus.server import ServerMilvus
from tasks.core.release.publisher import Publisher


def open_publisher(home: Path, settings: MilvusSettings) -> Publisher:
    """Return a publisher for the Milvus server at `[milvus] uri`, or for milvus-lite below home if `uri` is empty."""
    return ServerMilvus(settings) if settings.uri else EmbeddedMilvus(home, settings)
