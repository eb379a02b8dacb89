"""What a night released: search it, look at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nightshift.encoders import Encoder, encoder_of_release
from tasks.core.base import receipts
from tasks.core.base.errors import NO_RELEASE, NightshiftError
from tasks.core.base.files import load
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.search.searcher import Searcher as OpenSearcher
from tasks.core.snapshot import reader


class Searcher:
    """Opens the serving release for searching."""

    @staticmethod
    def open(settings: str | Path | Settings | None = None) -> OpenSearcher:
        """Open the serving release that a settings file leads to; close it, or use it in a `with`.

        `searcher.search(["a query"], k=10)` returns one answer for each query: `release`, and `hits` with rank,
        score, passage_id, title and text. It ranks as the night found best; `mode="dense"`, "lexical", or "hybrid"
        chooses. The searcher follows the pointer: after a swap it answers from the new release.

        Args:
            settings: a TOML file, or settings read before; None: NIGHTSHIFT_SETTINGS, else the defaults.

        Raises:
            NightshiftError: there is no release yet, or it does not load.
        """
        return OpenSearcher.open(_settings(settings))


@dataclass(frozen=True)
class Release:
    """An encoder and a collection of vectors that belong together, with the figures that they were judged on."""

    receipt: receipts.Release = field(repr=False)
    settings: Settings = field(repr=False)

    @property
    def name(self) -> str:
        """Its name, such as r0001-1a2b3c4d."""
        return self.receipt.release

    @property
    def encoder(self) -> Encoder:
        """The encoder that its vectors were made with."""
        return encoder_of_release(self.settings.home, self.receipt.encoder, self.settings.encoder)

    @property
    def metrics(self) -> dict[str, float]:
        """Its measures on the held-out queries of its night."""
        return dict(self.receipt.metrics)

    def passages(self) -> Iterator[dict[str, str]]:
        """Stream its passages, ordered by id: passage_id, title, text."""
        snapshot = load(self.settings.home, receipts.Snapshot, self.receipt.snapshot)
        for batch in reader.passages(snapshot, columns=["passage_id", "title", "text"]):
            yield from batch.to_pylist()

    def __repr__(self) -> str:
        return f"Release({self.name}, {self.receipt.rows:,} passages, nDCG@10 {self.metrics['ndcg@10']:.4f})"


def serving(settings: str | Path | Settings | None = None) -> Release:
    """The release that serves.

    Args:
        settings: as `Searcher.open`.

    Raises:
        NightshiftError: no release serves yet.
    """
    from tasks.core.release.publish import serving as serving_release

    tree = _settings(settings)
    receipt, _ = serving_release(tree)
    if receipt is None:
        raise NightshiftError(f"{tree.home}: {NO_RELEASE}")
    return Release(receipt, tree)


def _settings(settings: str | Path | Settings | None) -> Settings:
    return settings if isinstance(settings, Settings) else load_settings(None if settings is None else Path(settings))
