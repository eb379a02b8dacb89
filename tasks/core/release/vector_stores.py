"""Open the vector store that the settings choose."""

from __future__ import annotations

from tasks.core.base.settings import Settings
from tasks.core.release.milvus.embedded import EmbeddedMilvus
from tasks.core.release.milvus.server import ServerMilvus
from tasks.core.release.publisher import Publisher


def open_publisher(settings: Settings) -> Publisher:
    """Return a publisher for the Milvus server at `[milvus] uri`, or for milvus-lite below home if `uri` is empty."""
    return ServerMilvus(settings.milvus) if settings.milvus.uri else EmbeddedMilvus(settings.home, settings.milvus)
