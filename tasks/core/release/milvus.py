"""Where the settings say that releases lie."""

from __future__ import annotations

from tasks.core.release.embedded import EmbeddedMilvus
from tasks.core.release.publisher import Publisher
from tasks.core.release.server import ServerMilvus
from tasks.core.settings import Settings


def milvus_of(settings: Settings) -> Publisher:
    """A Milvus server when `[milvus] uri` names one, else milvus-lite directories below home."""
    return ServerMilvus(settings.milvus) if settings.milvus.uri else EmbeddedMilvus(settings.home, settings.milvus)
