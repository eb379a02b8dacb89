"""Decide whether the passages of a night may be published although its queries are suspect."""

from __future__ import annotations

from tasks.core.base.receipts import Snapshot
from tasks.core.drift.new_queries import ServingRelease
from tasks.core.ingest.serving_queries import sample_changed_texts
from tasks.core.text.normalization import full_text
from tasks.core.text.words import unseen_share

SAMPLE = 1000  # new and changed passages
MOST_UNSEEN = 0.5  # share of their terms; a new topic in the same language has less, broken text has more


def explain_suspect_passages(served: ServingRelease, snapshot: Snapshot) -> str:
    """Return why the new and changed passages of `snapshot` are suspect; empty if they are not.

    They are suspect if more than `MOST_UNSEEN` of the terms in a sample of them occur in no passage and no training
    query of the serving release.
    """
    sample = sample_changed_texts(served.snapshot, snapshot, SAMPLE)
    texts = [full_text(row["title"], row["text"]) for row in sample.to_pylist()]
    share = unseen_share(texts, served.reference.terms) if texts else 0.0
    if share <= MOST_UNSEEN:
        return ""
    return f"{share:.1%} of the terms of new and changed passages were never seen before, so they look broken too"
