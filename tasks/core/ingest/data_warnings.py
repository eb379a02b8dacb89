"""Warns about data that a night handles badly: few held-out queries, passages cut by a token limit, or too many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import find_base
from tasks.core.ingest.milvus_choice import warn_of_embedded_limit
from tasks.core.snapshot.reader import passage_texts

FEW_QUERIES = 100  # held-out queries; with fewer, only large gains are significant
MOSTLY_WHOLE = 0.5  # least share of passages that a token limit should leave whole
SAMPLE = 2_000  # passages whose tokens are counted


def data_warnings(snapshot: Snapshot, split: str, settings: EncoderSettings, milvus: MilvusSettings) -> list[str]:
    """Return warnings about a night on this snapshot, each with the next step.

    Args:
        snapshot: of the night.
        split: name of the held-out split.
        settings: of the encoder that reads the passages.
        milvus: where the passages will be searched.
    """
    texts = [settings.passage_prompt + text for text in islice(passage_texts(snapshot), SAMPLE)]
    whole = float((token_counts(texts, settings) <= settings.passage_tokens).mean())
    return [
        *warn_of_few_queries(snapshot.splits.get(split, 0), split),
        *warn_of_cut_passages(whole, settings.passage_tokens),
        *warn_of_embedded_limit(snapshot.rows, milvus),
    ]


def token_counts(texts: Sequence[str], encoder: EncoderSettings) -> np.ndarray:
    """Return the number of tokens of each text, int64 (n,): tokenizer of the base model, special tokens included."""
    from tasks.core.encoder.model_parts import read_tokenizer

    tokenizer = read_tokenizer(find_base(encoder.model))
    return np.array([len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]])


def warn_of_few_queries(queries: int, split: str, *, about: bool = False) -> list[str]:
    """Return a warning when a split has too few judged queries for the gate. `about`: the night draws them."""
    if queries >= FEW_QUERIES:
        return []
    count = f"about {queries}" if about else str(queries)
    return [
        f"split {split} has {count} held-out queries, fewer than {FEW_QUERIES}: the gate promotes only clear gains. "
        "Judge more queries, or move some from train to it."
    ]


def warn_of_cut_passages(whole: float, tokens: int) -> list[str]:
    """Return a warning when a token limit cuts more than half of the passages."""
    if whole >= MOSTLY_WHOLE:
        return []
    return [
        f"[encoder] passage_tokens = {tokens} cuts {1 - whole:.0%} of the passages. The search cannot find text "
        "that is cut off. Raise the limit (nights take longer), or split long passages."
    ]
