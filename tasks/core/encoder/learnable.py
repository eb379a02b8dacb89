"""Check, before training, that a model can distinguish the texts: by their tokens and by their vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.encoder.loading import load_encoder
from tasks.core.encoder.serving import ServingEncoder
from tasks.core.encoder.tokenizing import token_ids
from tasks.core.snapshot.reader import judged, passages_by_id, qrels
from tasks.core.snapshot.splits import Split
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.training")

SAMPLE = 2_000  # training pairs
ENCODED = 32  # sampled texts to encode, to check that their vectors differ
SOME_UNKNOWN = 0.05  # share of unknown tokens that triggers a warning; English has less than 0.001 with MiniLM
UNREADABLE = 0.5  # share of unknown tokens from which a text counts as unreadable
LEAST_READABLE = 0.05  # minimum share of training pairs with two readable texts
SAME_VECTOR = 1e-5  # vectors are equal if no component differs by more


class Tokenized(NamedTuple):
    """Token ids of texts, without special tokens, and the share of unknown tokens: overall and for each text."""

    ids: list[list[int]]
    unknown: float
    by_text: np.ndarray  # float64 (n,); 1 for a text without tokens

    @property
    def different(self) -> int:
        """Number of distinct token sequences."""
        return len(set(map(tuple, self.ids)))


def tokenize_sample(tokenizer: Any, texts: Sequence[str], limit: int) -> Tokenized:
    """Tokenize texts without a prompt, cut at `limit` tokens each."""
    special = set(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    if unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        unknown = None  # byte tokenizers know every text and reuse this name for another token
    dropped = special - {unknown}
    ids = [[token for token in row if token not in dropped] for row in token_ids(tokenizer, texts, limit)]
    counts = np.array([row.count(unknown) if unknown is not None else 0 for row in ids])
    sizes = np.array([len(row) for row in ids])
    by_text = np.where(sizes > 0, counts / np.maximum(sizes, 1), 1.0)
    return Tokenized(ids, float(counts.sum() / max(1, sizes.sum())), by_text)


def warn_of_unknown_tokens(model: str, queries: float, passages: float) -> str:
    """Return a warning if 5 % or more of the tokens are unknown to the tokenizer of `model`, else an empty string.

    queries, passages: share of unknown tokens in queries and in passages, 0 to 1.
    """
    if max(queries, passages) < SOME_UNKNOWN:
        return ""
    return (
        f"{queries:.1%} of the queries' tokens and {passages:.1%} of the passages' are unknown to the tokenizer of "
        f"{model}, which cannot distinguish those words. Set [encoder] model to a model that was made for this language"
    )


def check_learnable(encoder: Encoder, snapshot: Snapshot, *, will_train: bool) -> None:
    """Check on a sample of training pairs that the encoder can distinguish the texts; log a warning for unknown tokens.

    Raises BadInput when it cannot and `will_train` is set.
    """
    queries, positives = _sample(snapshot)
    model = load_encoder(encoder.path)
    query_tokens = tokenize_sample(model.query.tokenizer, queries, model.query.max_tokens)
    passage_tokens = tokenize_sample(model.passage.tokenizer, positives, model.passage.max_tokens)
    if warning := warn_of_unknown_tokens(encoder.base, query_tokens.unknown, passage_tokens.unknown):
        log.warning("%s.", warning)
    if not will_train:
        return
    reason = _unreadable(query_tokens, passage_tokens) or _same_tokens(queries, query_tokens, positives, passage_tokens)
    if reason := reason or _same_vectors(model, queries, positives):
        raise BadInput(
            f"nothing can be learned from this data with {encoder.base}: {reason}. Set [encoder] model to a model "
            "that was made for the language and script of the data."
        )


def _sample(snapshot: Snapshot) -> tuple[list[str], list[str]]:
    """Return sampled training queries, evenly spread, and one positive for each."""
    train_queries = judged(snapshot, Split.TRAIN)
    rows = np.unique(np.linspace(0, train_queries.num_rows - 1, SAMPLE).astype(int))
    train_queries = train_queries.take(pa.array(rows))
    pairs = qrels(snapshot, Split.TRAIN).select(["query_id", "passage_id"]).to_pylist()
    first = {pair["query_id"]: pair["passage_id"] for pair in reversed(pairs)}
    wanted_ids = pa.array(sorted({first[query] for query in train_queries["query_id"].to_pylist()}), pa.string())
    texts = {passage: full_text(*parts) for passage, parts in passages_by_id(snapshot, wanted_ids).items()}
    return train_queries["text"].to_pylist(), [texts[first[query]] for query in train_queries["query_id"].to_pylist()]


def _unreadable(query_tokens: Tokenized, passage_tokens: Tokenized) -> str:
    unreadable = (query_tokens.by_text >= UNREADABLE) | (passage_tokens.by_text >= UNREADABLE)
    if 1 - unreadable.mean() >= LEAST_READABLE:
        return ""
    return (
        f"in {unreadable.sum():,} of {len(unreadable):,} training pairs, at least half of the query's or the "
        "passage's tokens are unknown"
    )


def _same_tokens(queries: list[str], query_tokens: Tokenized, positives: list[str], passage_tokens: Tokenized) -> str:
    for name, texts, tokenized in (("queries", queries, query_tokens), ("passages", positives, passage_tokens)):
        if len(set(texts)) > 1 and tokenized.different == 1:
            return f"all {len(set(texts)):,} different training {name} have the same tokens"
    return ""


def _same_vectors(model: ServingEncoder, queries: list[str], positives: list[str]) -> str:
    for name, texts, encode in (
        ("queries", queries, model.encode_queries),
        ("passages", positives, model.encode_passages),
    ):
        distinct = list(dict.fromkeys(texts))[:ENCODED]
        if len(distinct) > 1 and float(np.ptp(encode(distinct), axis=0).max()) < SAME_VECTOR:
            return f"the vectors of {len(distinct)} different {name} are all the same"
    return ""
