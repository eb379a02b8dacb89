"""Teachers: models that score positives and negatives for distillation.

Every teacher scores pairs of a query and a passage on its own scale; `check_teacher` measures its spread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import digest_of
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Embeddings, Postings, Snapshot
from tasks.core.base.sections.mining import CrossEncoderSettings, TeacherSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import find_base
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, decisive_files
from tasks.core.encoder.model_settings import ModelSetting, own_settings
from tasks.core.mining.choice import ScorePairs
from tasks.core.mining.cross_encoder import CrossEncoder, cross_encoder_digest, find_cross_encoder, pair_scorer
from tasks.core.mining.passage_texts import texts_of
from tasks.core.retrieval.bm25_scorer import Bm25Scorer, open_scorer
from tasks.core.retrieval.exact import score_pairs
from tasks.core.retrieval.fusion import fuse_scores

VERSION = 1  # of teacher scores; raise it when they change for the same inputs
PAIRS_AT_ONCE = 16_384  # pairs of vectors multiplied at once
BM25 = Ranking(weight=0)
DIGITS = 5  # of an inner product: rounding errors must not depend on the batch

# queries (query_id, text) and their vectors from the encoder that mines, float32 (queries, dimension) → scorer of pairs
ScorerOf = Callable[[pa.Table, np.ndarray], ScorePairs]


@dataclass(frozen=True)
class Teacher:
    """A model that scores pairs.

    name: description for reports. key: all that determines its scores. load: opens it. rivals: rankings whose best
    passages are hard for the teacher or for the encoder that mines; they supply the pairs of the check.
    """

    name: str
    key: Mapping[str, object]
    load: Callable[[], ScorerOf]
    rivals: Sequence[Ranking]


def blend_teacher(embeddings: Embeddings, postings: Postings, ranking: Ranking) -> Teacher:
    """Teach with the hybrid score of the encoder that mines: weight · dense / D + (1 - weight) · BM25 / B.

    Every pair has its true score from both retrievers, as in the ranking of a release (`retrieval.fusion`).

    Args:
        embeddings: passage vectors of that encoder.
        postings: lexical index of the same snapshot.
        ranking: weight, scales, and parameters of BM25.
    """

    def load() -> ScorerOf:
        scorer = open_scorer(postings, ranking)

        def scorer_of(queries: pa.Table, vectors: np.ndarray) -> ScorePairs:
            def score(query_rows: np.ndarray, passage_rows: np.ndarray) -> np.ndarray:
                dense = score_pairs(vectors, embeddings, query_rows, passage_rows)
                lexical = _bm25_scores(scorer, queries, query_rows, passage_rows)
                return fuse_scores(ranking, dense, lexical).astype(np.float32)

            return score

        return scorer_of

    weighting = ranking.model_dump(include={"weight", "dense_scale", "lexical_scale", "k1", "b"})
    return Teacher(
        name=f"blend: {ranking}",
        key={"source": "blend", **weighting, "postings": postings.digest, "version": VERSION},
        load=load,
        rivals=(DENSE, ranking),
    )


def cross_encoder_teacher(snapshot: Snapshot, settings: CrossEncoderSettings) -> Teacher:
    """Teach with the log-odds of relevance of a cross-encoder.

    Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation"
    (2020), teach with margins of such unbounded scores; a probability would hide all large margins.

    Args:
        snapshot: texts of the passages.
        settings: the model and its token limit.

    Raises:
        NightshiftError: there is no such model, or it is no cross-encoder.
    """
    folder = find_cross_encoder(settings)

    def load() -> ScorerOf:
        model = CrossEncoder(folder, settings.tokens)
        return lambda queries, _: pair_scorer(snapshot, queries, model.log_odds)

    key = {"source": "cross-encoder", "model": cross_encoder_digest(folder), "tokens": settings.tokens}
    return Teacher(f"cross-encoder {settings.model}", {**key, "version": VERSION}, load, (BM25,))


def encoder_teacher(snapshot: Snapshot, settings: TeacherSettings) -> Teacher:
    """Teach with the inner products of another embedding model. Only the passages of scored pairs are encoded.

    Pooling, normalization, and a linear projection are those of its sentence-transformers folder; so are prompts that
    the settings do not give. Vectors are computed in fp32.

    Args:
        snapshot: texts of the passages.
        settings: the model, prompts, and token limits.

    Raises:
        NightshiftError: there is no such model, or it has a step that Nightshift does not support.
    """
    try:
        base = find_base(settings.model)
    except NightshiftError as error:
        raise NightshiftError(f"[mining.teacher] model = {settings.model!r}: {error}") from error
    spec = EncoderSpec.of(_settings_of_model(settings, own_settings(base, ["query", "passage"])), "fp32")
    key = {"source": "encoder", "files": decisive_files(base), "spec": spec.model_dump(), "version": VERSION}

    def load() -> ScorerOf:
        model = DualEncoder(base, spec, digest_of(key)).for_inference()

        def scorer_of(queries: pa.Table, vectors: np.ndarray) -> ScorePairs:
            def score(query_rows: np.ndarray, passage_rows: np.ndarray) -> np.ndarray:
                wanted, query = np.unique(query_rows, return_inverse=True)
                query_vectors = model.encode_queries(queries["text"].take(pa.array(wanted)).to_pylist())
                texts = texts_of(snapshot, passage_rows)
                wanted, passage = np.unique(passage_rows, return_inverse=True)
                passage_vectors = model.encode_passages([texts[row] for row in wanted.tolist()])
                return _inner_products(query_vectors, passage_vectors, query, passage)

            return score

        return scorer_of

    return Teacher(f"encoder {settings.model}", key, load, (BM25,))


def _settings_of_model(settings: TeacherSettings, own: Iterable[ModelSetting]) -> EncoderSettings:
    """Combine the stated settings with those of the model folder.

    Raises:
        NightshiftError: no setting reproduces a step of the model.
    """
    stated = settings.model_dump(exclude={"source"}, exclude_none=True)
    values: dict[str, object] = {}
    for name, value, source in own:
        if value is None:
            raise NightshiftError(
                f"[mining.teacher] model = {settings.model!r}: Nightshift does not support {source}. Set another model."
            )
        values[name] = value
    return EncoderSettings.model_validate(values | stated)


def _bm25_scores(scorer: Bm25Scorer, queries: pa.Table, query_rows: np.ndarray, passage_rows: np.ndarray) -> np.ndarray:
    """Return the BM25 scores float32 (n,) of pairs."""
    scores = np.zeros(len(query_rows), np.float32)
    order = np.argsort(query_rows, kind="stable")
    wanted, starts = np.unique(query_rows[order], return_index=True)
    texts = queries["text"].take(pa.array(wanted)).to_pylist()
    for text, start, end in zip(texts, starts, [*starts[1:], len(order)], strict=True):
        positions = order[start:end]
        scores[positions] = scorer.scores(scorer.weights(text), passage_rows[positions])
    return scores


def _inner_products(left: np.ndarray, right: np.ndarray, left_rows: np.ndarray, right_rows: np.ndarray) -> np.ndarray:
    """Return the rounded inner products float32 (n,) of rows of two matrices."""
    scores = np.zeros(len(left_rows), np.float32)
    for start in range(0, len(scores), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        scores[part] = np.einsum("ij,ij->i", left[left_rows[part]], right[right_rows[part]])
    rounded: np.ndarray = np.round(scores, DIGITS)
    return rounded
