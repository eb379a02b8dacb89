"""Open releases by name, in addition to the serving release: to compare, shadow, or export them."""

from __future__ import annotations

from tasks.core.base.receipts import Release
from tasks.core.base.settings import Settings
from tasks.core.release.history import known_releases
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.names import pick_name
from tasks.core.release.publisher import Loader, Opener, Pointer, Reader, default_loader
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

SERVING = "serving"  # name for the serving release


def loadable(settings: HomeSettings) -> list[Release]:
    """List the releases whose collections are kept, newest first. Read-only, unless the ledger was lost."""
    return [release for release in known_releases(settings) if not release.pruned]


def find_release(settings: HomeSettings, name: str, opener: Opener | None = None) -> Release:
    """Find a kept release by its name, the beginning of its name, or "serving".

    Raises:
        NoSuchRelease: as `pick_name`.
    """
    known = loadable(settings)
    if name == SERVING:
        pointer = (opener or open_publisher(settings.home, settings.milvus)).serving()
        name = pointer.release if pointer is not None else ""
    picked = pick_name(name or SERVING, [release.release for release in known])
    return next(release for release in known if release.release == picked)


def open_release(
    settings: Settings, name: str, loader: Loader = default_loader, opener: Opener | None = None
) -> Searcher:
    """Open a searcher for one release; it does not follow the pointer.

    Raises:
        NoSuchRelease: as `find_release`.
        NightshiftError: as `Searcher.open`.
    """
    milvus = opener or open_publisher(settings.home, settings.milvus)
    fixed = {
        "milvus": settings.milvus.model_copy(update={"notice_seconds": 0.0}),
        "release": settings.release.model_copy(update={"serve_previous_when_damaged": False}),
    }
    release = find_release(settings, name, milvus)
    return Searcher(settings.model_copy(update=fixed), loader, _FixedPointer(milvus, release))


class _FixedPointer:
    """An opener whose pointer always names the same release."""

    def __init__(self, milvus: Opener, release: Release) -> None:
        self._milvus = milvus
        self._pointer = Pointer(release=release.release, collection=release.collection, fingerprint=release.fingerprint)

    def serving(self) -> Pointer:
        return self._pointer

    def open(self, collection: str) -> Reader:
        return self._milvus.open(collection)
