"""The lexical index of a release: checked before publishing, opened together with its collection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.base.errors import Damaged, Impossible, Mismatch
from tasks.core.base.files import find_artifact
from tasks.core.base.ranking import Mode, Ranking
from tasks.core.base.receipts import Postings

if TYPE_CHECKING:
    from tasks.core.retrieval.bm25_scorer import Bm25Scorer

NEXT = "`nightshift releases repair` or the next night rebuilds it"


def check_lexical(home: Path, ranking: Ranking, snapshot: str, rows: int) -> None:
    """Raise Mismatch unless the ranking needs no lexical index, or has one over this snapshot of `rows` passages."""
    if not ranking.postings:
        if ranking.mode is Mode.DENSE:
            return
        raise Mismatch(f"ranking ({ranking}): names no lexical index. Build it for snapshot {snapshot}")
    postings = find_artifact(home, Postings, ranking.postings)
    if postings is None or (postings.snapshot, postings.rows) != (snapshot, rows):
        raise Mismatch(
            f"lexical index {ranking.postings}: missing, or not over snapshot {snapshot}. "
            "Run the night again; it builds the index"
        )


def open_lexical(home: Path, ranking: Ranking, snapshot: str, rows: int) -> Bm25Scorer:
    """Open the lexical index of a release over the snapshot with this digest and number of passages.

    Raises:
        Impossible: the release has no lexical index.
        Damaged: its files are damaged or missing.
        Mismatch: it belongs to another snapshot.
    """
    from tasks.core.retrieval.bm25_scorer import open_scorer  # compiles its kernel at import

    if not ranking.postings:
        raise Impossible(
            "this release has no lexical index, because an earlier version made it: only dense search is possible. "
            "The next release has one"
        )
    postings = find_artifact(home, Postings, ranking.postings)
    if postings is None:
        raise Damaged(f"{home / Postings.shelf / ranking.postings}: lexical index damaged or missing. {NEXT}")
    if (postings.snapshot, postings.rows) != (snapshot, rows):
        raise Mismatch(
            f"lexical index {postings.digest}: made from snapshot {postings.snapshot} with {postings.rows} passages, "
            f"but the release has snapshot {snapshot} with {rows}. `nightshift rollback` serves the previous release"
        )
    return open_scorer(postings, ranking)
