"""Delete artifacts that no retained release references and no night has used for `keep_days` days."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from filelock import FileLock

from tasks.core.base import artifact_store as store
from tasks.core.base.files import files_under, receipts_newest_first
from tasks.core.base.receipts import (
    ArmScores,
    Embeddings,
    Encoder,
    Evaluation,
    Index,
    Negatives,
    Postings,
    Reference,
    Run,
    Shingles,
    Snapshot,
    TextIndex,
    Tokens,
)
from tasks.core.base.search_receipts import DenseHits
from tasks.core.base.synthetic_receipts import Synthesis
from tasks.core.base.training_receipts import Trial
from tasks.core.release.history import known_releases
from tasks.core.release.home_settings import HomeSettings

log = logging.getLogger("nightshift.release")

# All of these can be rebuilt. Records of ingests and releases are never deleted.
DELETABLE = (
    *(Snapshot, Synthesis, Index, Postings, Run, ArmScores, DenseHits, TextIndex, Tokens, Shingles),
    *(Negatives, Encoder, Trial, Embeddings, Evaluation, Reference),
)
KEPT_WITH_SNAPSHOT = (Index, Postings, TextIndex, Tokens, Shingles, Reference)
DAY = 86_400.0  # seconds
GONE = ".gone"


def remove_unused(settings: HomeSettings, now: float | None = None) -> list[Path]:
    """Delete artifacts, finished or not, that were last used more than `keep_days` days ago.

    Keeps, regardless of age, for every release that is not pruned: its encoder, embeddings, and snapshot; the trunk's
    embeddings that derived embeddings were computed from; the base model's embeddings of that snapshot, or the newest
    ones, which the next training needs; and indexes, tokens, and statistics made only from these. An artifact is
    renamed before its files are deleted, so it is never half there. Call this only while no night runs on the home.

    Args:
        settings: of the home. Nothing is deleted if `keep_days` is 0.
        now: seconds since 1970; None: the current time.

    Returns: the folders of the deleted artifacts.
    """
    if settings.keep_days == 0:
        return []
    before = (time.time() if now is None else now) - settings.keep_days * DAY
    kept = _kept_digests(settings)
    removed: list[Path] = []
    freed = 0
    for folder in _folders(settings.home):
        if folder.name not in kept and (folder.name.endswith(GONE) or folder.stat().st_mtime < before):
            freed += sum(file.stat().st_size for file in files_under(folder))
            removed.append(folder)
            remove_artifact(folder)
    if removed:
        text = "removed %d artifacts not used for %g days (%.1f MB)"
        log.info(text, len(removed), settings.keep_days, freed / 1e6)
    return removed


def _kept_digests(settings: HomeSettings) -> set[str]:
    """Return the digests of artifacts to keep; see `remove_unused`."""
    releases = [release for release in known_releases(settings) if not release.pruned]
    kept = {digest for release in releases for digest in (release.encoder, release.embeddings, release.snapshot)}
    bases = {encoder.digest for encoder in receipts_newest_first(settings.home, Encoder) if encoder.steps == 0}
    stored = receipts_newest_first(settings.home, Embeddings)
    of_bases = [embeddings for embeddings in stored if bases.intersection(embeddings.parents)]
    # Refreshes make no vectors of the base model. So the last ones stay, and the next training encodes what changed.
    last = [embeddings for embeddings in of_bases if not embeddings.derived][:1]
    for embeddings in [each for each in of_bases if each.snapshot in kept] or last:
        kept |= {embeddings.digest, *embeddings.parents}
    parents = {parent for embeddings in stored if embeddings.digest in kept for parent in embeddings.parents}
    kept |= parents.intersection(embeddings.digest for embeddings in stored)
    derived = [receipt for kind in KEPT_WITH_SNAPSHOT for receipt in receipts_newest_first(settings.home, kind)]
    while more := {r.digest for r in derived if r.parents and kept.issuperset(r.parents)} - kept:
        kept |= more
    return kept


def _folders(home: Path) -> list[Path]:
    """Return the folders of all deletable artifacts, including unfinished and partly deleted ones."""
    return [path for kind in DELETABLE for path in sorted((home / kind.shelf).glob("*")) if path.is_dir()]


def remove_artifact(folder: Path) -> None:
    """Delete an artifact's folder, finished or not. It is renamed first, so it is never half there."""
    digest = folder.name.removeprefix(".").partition(".")[0]
    with FileLock(folder.with_name(f".{digest}.lock")):
        doomed = folder.with_name(f".{digest}{GONE}")
        if folder != doomed:
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
        shutil.rmtree(doomed)
        store.forget(folder.with_name(digest))
