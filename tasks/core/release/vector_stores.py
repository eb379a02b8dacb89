"""Where the settings say that releases lie."""

from __future__ import annotations

from tasks.core.base.settings import Settings
from tasks.core.release.milvus.embedded import EmbeddedMilvus
from tasks.core.release.milvus.server import ServerMilvus
from tasks.core.release.publisher import Publisher


def open_publisher(settings: Settings) -> Publisher:
    """A Milvus server when `[milvus] uri` names one, else milvus-lite directories below home."""
    return ServerMilvus(settings.milvus) if settings.milvus.uri else EmbeddedMilvus(settings.home, settings.milvus)
