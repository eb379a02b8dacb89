"""Choose the numeric path of an encoder: the fastest path of this machine that is faithful to fp32.

Each path is measured with this night's weights on texts of this snapshot: dev queries and a pool of passages with
their positives, or passages only if the snapshot has no dev queries. The path must reach a minimum cosine to fp32, and
must not lose more nDCG@10 on the pool than the settings allow. A loss counts only if it is significant.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_json
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.embedding import INT8, OPENVINO, EmbeddingSettings, Precision
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.backends import graph
from tasks.core.encoder.dual_encoder import SPEC, DualEncoder, places, read_spec
from tasks.core.encoder.hardware import missing_for, paths_here
from tasks.core.encoder.serving import TokenIds
from tasks.core.evaluation.significance import interval
from tasks.core.snapshot.reader import passages, queries
from tasks.core.snapshot.splits import Split
from tasks.core.text.normalization import full_text
from tasks.core.training.dev_evaluation import DevEvaluation, dev_evaluation

log = logging.getLogger("nightshift.encoder")

DEV = TrainingSettings(dev_queries=500, dev_passages=500)  # what nDCG@10 is measured on
SAMPLE = 64  # passages to compare if there are no dev queries; enough to include the texts that lose most
CALIBRATION = 64  # texts to calibrate int8; with 100, int8 vectors were no closer to fp32
TAIL = 0.05  # share of texts whose cosine may be lower than the fidelity of int8
FEW_QUERIES = 50  # with fewer queries, a few ranks move nDCG@10 by more than the bound; only the cosine decides


class Choice(NamedTuple):
    """A numeric path and its fidelity to fp32."""

    precision: Precision
    fidelity: float = 1.0  # lowest cosine to fp32; for int8, the cosine that 95 % of the texts reach
    ndcg_change: float | None = None  # nDCG@10 minus nDCG@10 of fp32; None: not measured
    ndcg_interval: tuple[float, float] = (0.0, 0.0)  # 95 %, each end one-sided
    queries: int = 0  # number of dev queries measured

    def loses(self, max_loss: float) -> bool:
        """Return whether nDCG@10 drops by more than `max_loss`, and significantly."""
        if self.ndcg_change is None or self.queries < FEW_QUERIES:
            return False
        return self.ndcg_change < -max_loss and self.ndcg_interval[1] < 0


def choose_precision(folder: Path, snapshot: Snapshot, settings: EmbeddingSettings, kept: Path | None = None) -> Choice:
    """Choose the numeric path of the encoder in `folder`, and write it into the spec, with graphs for int8.

    "auto" and "fastest" try the paths of this machine, fastest first, and use the first faithful path. A path that the
    settings name is used even if it is not faithful.

    Args:
        folder: folder of the encoder; its manifest is not written yet.
        snapshot: texts for calibration and measurement.
        settings: `[embedding]`: the path and the bounds.
        kept: encoder with the same passage tower; its passage graph is copied instead of rebuilt.

    Returns:
        The path and its fidelity.

    Raises:
        NightshiftError: this machine does not support the path that the settings name.
    """
    for path in paths_tried(settings):
        if missing := missing_for(path):
            raise NightshiftError(f'[embedding] precision = "{path}": {missing}')
    candidates = [path for path in paths_tried(settings) if path != "fp32"]
    if candidates:
        log.info("comparing the numeric paths %s with fp32", ", ".join(candidates))
    reference = _Reference.of(folder, snapshot) if candidates else None
    calibrated = False
    for path in candidates:
        assert reference is not None
        try:
            if not (calibrated and path in INT8):  # both int8 paths use the same graph
                _prepare(folder, path, snapshot, kept)
                calibrated = path in INT8
            choice = reference.measure(_encoder(folder, path))
        except NightshiftError as error:
            if settings.precision == path:
                raise
            log.warning("numeric path %s cannot be used: %s", path, error)
            continue
        if _is_accepted(choice, settings):
            return _write(folder, choice)
    _prepare(folder, "fp32", snapshot, None)
    return _write(folder, Choice("fp32"))


def keep_precision(folder: Path, snapshot: Snapshot, start: Path, path: Precision) -> None:
    """Set the numeric path of the encoder in `folder` to that of `start`, an encoder with the same passage tower."""
    _prepare(folder, path, snapshot, start)
    _write(folder, Choice(path))


def paths_tried(settings: EmbeddingSettings) -> list[Precision]:
    """Return the paths that `choose_precision` tries on this machine, in order."""
    if settings.precision == "auto":
        return [path for path in paths_here() if path not in INT8]
    return paths_here() if settings.precision == "fastest" else [settings.precision]


@dataclass(frozen=True)
class _Reference:
    """Texts and their fp32 vectors, to compare other paths with."""

    evaluation: DevEvaluation | None
    query_tokens: TokenIds
    passage_tokens: TokenIds
    query_vectors: np.ndarray
    passage_vectors: np.ndarray

    @classmethod
    def of(cls, folder: Path, snapshot: Snapshot) -> _Reference:
        encoder = _encoder(folder, "fp32")
        evaluation = dev_evaluation(snapshot, Split.DEV, encoder, DEV)
        if evaluation is not None:
            query_tokens, passage_tokens = evaluation.query_tokens, evaluation.passage_tokens
        else:
            texts = _passages(snapshot, SAMPLE)
            query_tokens, passage_tokens = encoder.query.tokenize(texts), encoder.passage.tokenize(texts)
        return cls(evaluation, query_tokens, passage_tokens, *_encode(encoder, query_tokens, passage_tokens))

    def measure(self, encoder: DualEncoder) -> Choice:
        """Compare the vectors of another path with the fp32 vectors."""
        query_vectors, passage_vectors = _encode(encoder, self.query_tokens, self.passage_tokens)
        exact = np.concatenate([self.query_vectors, self.passage_vectors])
        fast = np.concatenate([query_vectors, passage_vectors])
        cosines = (exact * fast).sum(axis=1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1))
        path = encoder.spec.precision
        # int8 clips the few largest activations, so the worst text is not representative.
        fidelity = float(np.quantile(cosines, TAIL) if path in INT8 else cosines.min())
        if self.evaluation is None:
            return Choice(path, fidelity)
        ndcg = self.evaluation.ndcg_of
        changes = ndcg(query_vectors, passage_vectors) - ndcg(self.query_vectors, self.passage_vectors)
        return Choice(path, fidelity, float(changes.mean()), interval(changes, GateSettings()), len(changes))


def _is_accepted(choice: Choice, settings: EmbeddingSettings) -> bool:
    """Return whether the path is faithful or named by the settings; log the measurements."""
    int8 = choice.precision in INT8
    cosine = settings.int8_min_cosine if int8 else settings.min_cosine
    change = settings.int8_max_ndcg_change if int8 else settings.max_ndcg_change
    faithful = choice.fidelity >= cosine and not choice.loses(change)
    measured = "not measured"
    if choice.ndcg_change is not None:
        low, high = choice.ndcg_interval
        measured = f"{choice.ndcg_change:+.4f} ({low:+.4f} to {high:+.4f}) on {choice.queries} dev queries"
        if choice.queries < FEW_QUERIES:
            measured += ", too few to decide"
    measurements = f"cosine to fp32 {choice.fidelity:.5f} (bound {cosine}), nDCG@10 {measured} (bound {-change})"
    if faithful:
        log.info("numeric path %s: %s", choice.precision, measurements)
    elif settings.precision == choice.precision:
        log.warning(
            "numeric path %s is not faithful here, but [embedding] precision requires it: %s",
            choice.precision,
            measurements,
        )
    else:
        log.warning("numeric path %s is not used, because it is not faithful here: %s", choice.precision, measurements)
    return faithful or settings.precision == choice.precision


def _prepare(folder: Path, path: Precision, snapshot: Snapshot, kept: Path | None) -> None:
    """Write the graphs of `path` to the encoder's folder; delete all others."""
    spec = read_spec(folder)
    for place in places(spec).values():
        shutil.rmtree(folder / place / graph.FOLDER, ignore_errors=True)
    if path not in OPENVINO:
        return
    encoder = DualEncoder(folder, spec)
    for name, tower in encoder.towers.items():
        if kept is not None and name == "passage" and graph.copy(kept / places(spec)[name], encoder.places[name], path):
            continue
        if path not in INT8:
            graph.write(graph.convert(tower), encoder.places[name], graph.FLOAT)
            continue
        log.info("calibrating int8 with %d texts of this snapshot", CALIBRATION)
        texts = {"model": _mixed, "query": _queries, "passage": _passages}[name](snapshot, CALIBRATION)
        graph.write(graph.quantize(graph.convert(tower), tower.tokenize(texts)), encoder.places[name])


def _mixed(snapshot: Snapshot, count: int) -> list[str]:
    """Return one query to three passages."""
    texts = _queries(snapshot, count // 4)
    return texts + _passages(snapshot, count - len(texts))


def _queries(snapshot: Snapshot, count: int) -> list[str]:
    """Return training queries, evenly spaced; passages if there are none."""
    table = queries(snapshot, Split.TRAIN)
    if table.num_rows == 0:
        return _passages(snapshot, count)
    texts: list[str] = table.take(pa.array(_spread(table.num_rows, count)))["text"].to_pylist()
    return texts


def _passages(snapshot: Snapshot, count: int) -> list[str]:
    batch = next(iter(passages(snapshot)))
    picked = batch.take(pa.array(_spread(batch.num_rows, count))).to_pylist()
    return [full_text(row["title"], row["text"]) for row in picked]


def _spread(rows: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, count).astype(int))


def _encoder(folder: Path, path: Precision) -> DualEncoder:
    return DualEncoder(folder, read_spec(folder).model_copy(update={"precision": path})).for_inference()


def _encode(encoder: DualEncoder, query_tokens: TokenIds, passage_tokens: TokenIds) -> tuple[np.ndarray, np.ndarray]:
    budget = encoder.token_budget
    return encoder.query.encode(query_tokens, budget), encoder.passage.encode(passage_tokens, budget)


def _write(folder: Path, choice: Choice) -> Choice:
    write_json(folder / SPEC, read_spec(folder).model_copy(update={"precision": choice.precision}).model_dump())
    return choice
