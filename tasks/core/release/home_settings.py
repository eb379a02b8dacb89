"""The settings that operations on the releases of a home depend on. `Settings` has all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tasks.core.base.sections.release import MilvusSettings, ReleaseSettings


class HomeSettings(Protocol):
    """A home, its vector store, its ledger, and how long it keeps what no release needs."""

    @property
    def home(self) -> Path:
        """Folder of all artifacts and the embedded Milvus."""

    @property
    def keep_days(self) -> float:
        """Days without use after which an artifact that no release references is deleted; 0: never."""

    @property
    def milvus(self) -> MilvusSettings:
        """Vector store of the collections."""

    @property
    def release(self) -> ReleaseSettings:
        """Ledger of the releases."""
