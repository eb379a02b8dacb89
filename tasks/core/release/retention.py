"""What a home forgets: artifacts that no release is made of, when no night has used them for a while."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from filelock import FileLock

from tasks.core.base import artifact_store as store
from tasks.core.base.files import files_under, receipts_newest_first
from tasks.core.base.receipts import (
    Embeddings,
    Encoder,
    Evaluation,
    Index,
    Negatives,
    Reference,
    Run,
    Shingles,
    Snapshot,
    TextIndex,
    Tokens,
)
from tasks.core.base.settings import Settings
from tasks.core.release.history import known_releases

log = logging.getLogger("nightshift.release")

# All of them can be made again. What was read and refused (`ingests`) and what served (`releases`) stays for good.
FORGOTTEN = (Snapshot, Index, Run, TextIndex, Tokens, Shingles, Negatives, Encoder, Embeddings, Evaluation, Reference)
STAY_WITH_THEIR_SNAPSHOT = (Index, TextIndex, Tokens, Shingles, Reference)
DAY = 86_400.0  # seconds
GONE = ".gone"


def remove_unused(settings: Settings, now: float | None = None) -> list[Path]:
    """Remove artifacts, finished or not, that were last used more than `keep_days` ago; returns their folders.

    Kept whatever their age are encoder, embeddings and snapshot of every release whose collection is there, the base
    model's embeddings of those snapshots, which the next night would want, and the indexes, tokens and statistics that
    are made of those alone. An artifact gets another name before its files go,
    so that it is whole or not there. Call it while no other night runs on the home.

    Args:
        settings: of the home; nothing is removed where `keep_days` is 0.
        now: seconds since 1970; None: the clock.
    """
    if settings.keep_days == 0:
        return []
    before = (time.time() if now is None else now) - settings.keep_days * DAY
    kept = _kept(settings)
    removed: list[Path] = []
    freed = 0
    for folder in _folders(settings.home):
        if folder.name not in kept and (folder.name.endswith(GONE) or folder.stat().st_mtime < before):
            freed += sum(file.stat().st_size for file in files_under(folder))
            removed.append(folder)
            _remove(folder)
    if removed:
        text = "removed %d artifacts that nothing has used for %g days (%.1f MB)"
        log.info(text, len(removed), settings.keep_days, freed / 1e6)
    return removed


def _kept(settings: Settings) -> set[str]:
    """Digests that must stay: what releases are made of, what they are compared with, what is made of that alone."""
    releases = [release for release in known_releases(settings) if not release.pruned]
    kept = {digest for one in releases for digest in (one.encoder, one.embeddings, one.snapshot)}
    bases = {one.digest for one in receipts_newest_first(settings.home, Encoder) if one.steps == 0}
    for one in receipts_newest_first(settings.home, Embeddings):
        if one.snapshot in kept and bases.intersection(one.parents):
            kept |= {one.digest, *one.parents}
    beside = [one for kind in STAY_WITH_THEIR_SNAPSHOT for one in receipts_newest_first(settings.home, kind)]
    while more := {one.digest for one in beside if one.parents and kept.issuperset(one.parents)} - kept:
        kept |= more
    return kept


def _folders(home: Path) -> list[Path]:
    """All artifacts that may go, those that are not finished and those whose removal was not among them."""
    return [path for kind in FORGOTTEN for path in sorted((home / kind.shelf).glob("*")) if path.is_dir()]


def _remove(folder: Path) -> None:
    digest = folder.name.removeprefix(".").partition(".")[0]
    with FileLock(folder.with_name(f".{digest}.lock")):
        going = folder.with_name(f".{digest}{GONE}")
        if folder != going:
            shutil.rmtree(going, ignore_errors=True)
            folder.rename(going)
        shutil.rmtree(going)
        store.forget(folder.with_name(digest))
