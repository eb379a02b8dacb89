"""Releases by name, beside the one that the pointer names: to compare with, to shadow, to export."""

from __future__ import annotations

from tasks.core.base.receipts import Release
from tasks.core.base.settings import Settings
from tasks.core.release.history import known_releases
from tasks.core.release.names import pick_name
from tasks.core.release.publisher import Loader, Opener, Pointer, Reader, default_loader
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

SERVING = "serving"  # the name of whichever release the pointer names


def loadable(settings: Settings) -> list[Release]:
    """The releases whose collections are kept, newest first. Only reads, unless the ledger was lost."""
    return [release for release in known_releases(settings) if not release.pruned]


def find_release(settings: Settings, name: str, opener: Opener | None = None) -> Release:
    """The kept release called `name`, by its whole name, its beginning, or "serving".

    Raises NoSuchRelease as `pick_name` does.
    """
    known = loadable(settings)
    if name == SERVING:
        pointer = (opener or open_publisher(settings)).serving()
        name = pointer.release if pointer is not None else ""
    picked = pick_name(name or SERVING, [release.release for release in known])
    return next(release for release in known if release.release == picked)


def open_release(
    settings: Settings, name: str, loader: Loader = default_loader, opener: Opener | None = None
) -> Searcher:
    """A searcher that stays with one release, wherever the pointer goes.

    Raises NoSuchRelease as `find_release` does, and what `Searcher.open` raises.
    """
    milvus = opener or open_publisher(settings)
    still = {
        "milvus": settings.milvus.model_copy(update={"notice_seconds": 0.0}),
        "release": settings.release.model_copy(update={"serve_previous_when_damaged": False}),
    }
    release = find_release(settings, name, milvus)
    return Searcher(settings.model_copy(update=still), loader, _Still(milvus, release))


class _Still:
    """A pointer that names one release for ever."""

    def __init__(self, milvus: Opener, release: Release) -> None:
        self._milvus = milvus
        self._pointer = Pointer(release=release.release, collection=release.collection, fingerprint=release.fingerprint)

    def serving(self) -> Pointer:
        return self._pointer

    def open(self, collection: str) -> Reader:
        return self._milvus.open(collection)
