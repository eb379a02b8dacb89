"""The numeric path of an encoder: the fastest that this machine has and that is faithful to fp32.

A path is measured with this night's weights on texts of this snapshot: dev queries and a pool of passages with their
answers in it, where the snapshot has dev queries, else passages alone. It must keep a cosine to fp32, and must not lose
more nDCG@10 on that pool than the settings allow. A loss counts when it is more than chance; a gain always passes.
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
from tasks.core.base.sections.embedding import INT8, EmbeddingSettings, Precision
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import GateSettings
from tasks.core.encoder.backends import graph
from tasks.core.encoder.dual_encoder import SPEC, DualEncoder, places, read_spec
from tasks.core.encoder.hardware import missing_for, paths_here
from tasks.core.encoder.tower import TokenIds
from tasks.core.evaluation.significance import interval
from tasks.core.snapshot.reader import passages, queries
from tasks.core.text.normalization import full_text
from tasks.core.training.dev_evaluation import DevEvaluation, dev_evaluation

log = logging.getLogger("nightshift.encoder")

DEV = TrainingSettings(dev_queries=500, dev_passages=500)  # what nDCG@10 is measured on
SAMPLE = 64  # passages, where there are no dev queries: enough to meet the texts that lose most
CALIBRATION = 64  # texts; 100 gave int8 vectors no nearer to fp32
TAIL = 0.05
FEW_QUERIES = 50  # below it a handful of ranks moves nDCG@10 by more than any bound, and the cosine decides alone


class Choice(NamedTuple):
    """A numeric path and how faithful it is; fp32 is faithful to itself."""

    precision: Precision
    fidelity: float = 1.0  # lowest cosine to fp32; for int8 the cosine that 95 % of the texts keep
    ndcg_change: float | None = None  # nDCG@10 less that of fp32; None: not measured
    ndcg_interval: tuple[float, float] = (0.0, 0.0)  # each end one-sided, at 95 %
    queries: int = 0  # that it was measured on

    def loses(self, most: float) -> bool:
        """Whether nDCG@10 falls by more than `most`, and by more than chance."""
        if self.ndcg_change is None or self.queries < FEW_QUERIES:
            return False
        return self.ndcg_change < -most and self.ndcg_interval[1] < 0


def choose_precision(folder: Path, snapshot: Snapshot, settings: EmbeddingSettings, kept: Path | None = None) -> Choice:
    """Write the numeric path that the encoder in `folder` shall use into its spec, and its graphs where it has any.

    With "auto" and "fastest" the paths of this machine are tried from the fastest on, and the first faithful one is
    taken. A path that was asked for by name is kept, faithful or not.

    Args:
        folder: the encoder, not sealed yet.
        snapshot: whose texts calibrate and measure.
        settings: the path asked for and the bounds.
        kept: an encoder whose passage side is this one's too: its graph is taken over and not made anew.

    Raises:
        NightshiftError: a path was asked for by name and this machine does not have it.
    """
    for path in paths_tried(settings):
        if what := missing_for(path):
            raise NightshiftError(f'[embedding] precision = "{path}": {what}')
    candidates = [path for path in paths_tried(settings) if path != "fp32"]
    if candidates:
        log.info("comparing the numeric paths %s with fp32", ", ".join(candidates))
    exact = _Exact.of(folder, snapshot) if candidates else None
    calibrated = False
    for path in candidates:
        assert exact is not None
        try:
            if not (calibrated and path in INT8):  # the two int8 paths have the same graph
                _prepare(folder, path, snapshot, kept)
                calibrated = path in INT8
            choice = exact.measure(_encoder(folder, path))
        except NightshiftError as error:
            if settings.precision == path:
                raise
            log.warning("numeric path %s cannot be taken: %s", path, error)
            continue
        if _is_taken(choice, settings):
            return _write(folder, choice)
    _prepare(folder, "fp32", snapshot, None)
    return _write(folder, Choice("fp32"))


def keep_precision(folder: Path, snapshot: Snapshot, start: Path, path: Precision) -> None:
    """Give the encoder in `folder` the numeric path of the encoder in `start`, which has the same passage side."""
    _prepare(folder, path, snapshot, start)
    _write(folder, Choice(path))


def paths_tried(settings: EmbeddingSettings) -> list[Precision]:
    """The paths that `choose_precision` tries on this machine, in that order."""
    if settings.precision == "auto":
        return [path for path in paths_here() if path not in INT8]
    return paths_here() if settings.precision == "fastest" else [settings.precision]


@dataclass(frozen=True)
class _Exact:
    """Texts, and their fp32 vectors."""

    yard: DevEvaluation | None
    query_tokens: TokenIds
    passage_tokens: TokenIds
    asked: np.ndarray
    pool: np.ndarray

    @classmethod
    def of(cls, folder: Path, snapshot: Snapshot) -> _Exact:
        encoder = _encoder(folder, "fp32")
        yard = dev_evaluation(snapshot, "dev", encoder, DEV)
        if yard is not None:
            asked, pool = yard.query_tokens, yard.passage_tokens
        else:
            texts = _passages(snapshot, SAMPLE)
            asked, pool = encoder.query.tokenize(texts), encoder.passage.tokenize(texts)
        return cls(yard, asked, pool, *_encode(encoder, asked, pool))

    def measure(self, encoder: DualEncoder) -> Choice:
        """How far from these the vectors of another path are."""
        asked, pool = _encode(encoder, self.query_tokens, self.passage_tokens)
        exact, fast = np.concatenate([self.asked, self.pool]), np.concatenate([asked, pool])
        cosines = (exact * fast).sum(axis=1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1))
        path = encoder.spec.precision
        # Rounding to 8 bits clips the few largest activations: the one worst text says little of the others.
        fidelity = float(np.quantile(cosines, TAIL) if path in INT8 else cosines.min())
        if self.yard is None:
            return Choice(path, fidelity)
        changes = self.yard.ndcg_of(asked, pool) - self.yard.ndcg_of(self.asked, self.pool)
        return Choice(path, fidelity, float(changes.mean()), interval(changes, GateSettings()), len(changes))


def _is_taken(choice: Choice, settings: EmbeddingSettings) -> bool:
    """Whether the path is faithful, or asked for by name; says why."""
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
    figures = f"cosine to fp32 {choice.fidelity:.5f} (bound {cosine}), nDCG@10 {measured} (bound {-change})"
    if faithful:
        log.info("numeric path %s: %s", choice.precision, figures)
    elif settings.precision == choice.precision:
        log.warning("numeric path %s, asked for by name, is not faithful here: %s", choice.precision, figures)
    else:
        log.warning("numeric path %s is refused, it is not faithful here: %s", choice.precision, figures)
    return faithful or settings.precision == choice.precision


def _prepare(folder: Path, path: Precision, snapshot: Snapshot, kept: Path | None) -> None:
    """Leave in the encoder's folder the graphs that `path` needs, and no others."""
    spec = read_spec(folder)
    for place in places(spec).values():
        shutil.rmtree(folder / place / graph.FOLDER, ignore_errors=True)
    if path not in INT8:
        return
    encoder = DualEncoder(folder, spec)
    for name, tower in encoder.towers.items():
        same = None if kept is None or name != "passage" else kept / places(spec)[name] / graph.FOLDER
        if same is not None and same.is_dir():
            shutil.copytree(same, encoder.places[name] / graph.FOLDER)
            continue
        log.info("calibrating int8 with %d texts of this snapshot", CALIBRATION)
        texts = {"model": _mixed, "query": _queries, "passage": _passages}[name](snapshot, CALIBRATION)
        graph.write(graph.quantize(graph.convert(tower), tower.tokenize(texts)), encoder.places[name])


def _mixed(snapshot: Snapshot, wanted: int) -> list[str]:
    asked = _queries(snapshot, wanted // 4)
    return asked + _passages(snapshot, wanted - len(asked))


def _queries(snapshot: Snapshot, wanted: int) -> list[str]:
    """Training queries, evenly spread; passages where there are none."""
    table = queries(snapshot, "train")
    if table.num_rows == 0:
        return _passages(snapshot, wanted)
    texts: list[str] = table.take(pa.array(_spread(table.num_rows, wanted)))["text"].to_pylist()
    return texts


def _passages(snapshot: Snapshot, wanted: int) -> list[str]:
    batch = next(iter(passages(snapshot)))
    picked = batch.take(pa.array(_spread(batch.num_rows, wanted))).to_pylist()
    return [full_text(row["title"], row["text"]) for row in picked]


def _spread(rows: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, wanted).astype(int))


def _encoder(folder: Path, path: Precision) -> DualEncoder:
    return DualEncoder(folder, read_spec(folder).model_copy(update={"precision": path})).for_inference()


def _encode(encoder: DualEncoder, asked: TokenIds, pool: TokenIds) -> tuple[np.ndarray, np.ndarray]:
    budget = encoder.token_budget
    return encoder.query.encode(asked, budget), encoder.passage.encode(pool, budget)


def _write(folder: Path, choice: Choice) -> Choice:
    write_json(folder / SPEC, read_spec(folder).model_copy(update={"precision": choice.precision}).model_dump())
    return choice
