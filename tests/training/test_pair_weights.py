"""The weight of a pair: the loss of a weighted batch, and the way of a weight from the qrels into a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_snapshot import snapshot_of
from small_training import negatives_of, small_settings
from torch import Tensor

from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, start_from
from tasks.core.snapshot.reader import pair_weights, qrels
from tasks.core.training.batches import batch_at
from tasks.core.training.losses.choose import choose_loss
from tasks.core.training.losses.relations import Relations
from tasks.core.training.pairs import load_pairs

LOSSES = ["infonce", "triplet", "supcon", "margin_mse", "kl"]
QUERIES, PASSAGES = 4, 9


def vectors() -> tuple[Tensor, Tensor, Relations]:
    torch.manual_seed(0)
    queries, passages = (torch.randn(rows, 5, dtype=torch.float64) for rows in (QUERIES, PASSAGES))
    own = torch.eye(QUERIES, PASSAGES, dtype=torch.bool)
    teacher = torch.randn(QUERIES, PASSAGES, dtype=torch.float64)
    return queries, passages, Relations(torch.arange(QUERIES), own, own, teacher)


@pytest.mark.parametrize("name", LOSSES)
def test_a_pair_with_twice_the_weight_counts_as_two_pairs(name: str) -> None:
    queries, passages, relations = vectors()
    loss = choose_loss(TrainingSettings.model_validate({"loss": name, "temperature": 0.5}))
    weights = torch.tensor([1.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    rows = torch.tensor([0, 0, 1, 2, 2, 3])
    assert relations.teacher is not None
    doubled = Relations(
        relations.target[rows], *(table[rows] for table in (relations.positive, relations.known, relations.teacher))
    )
    weighted = loss(queries, passages, replace(relations, weight=weights))
    assert weighted.item() == pytest.approx(loss(queries[rows], passages, doubled).item(), abs=1e-12)
    assert weighted.item() != pytest.approx(loss(queries, passages, relations).item(), abs=1e-4)
    tiny = replace(relations, weight=weights * 1e-6)
    assert loss(queries, passages, tiny).item() == pytest.approx(weighted.item(), abs=1e-9)


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> DualEncoder:
    folder = tmp_path / "encoder"
    folder.mkdir()
    return start_from(tiny_model, EncoderSpec.of(small_settings(tmp_path, tiny_model).encoder, "fp32"), folder)


def test_weights_reach_the_batch_unless_they_are_equal(encoder: DualEncoder, tmp_path: Path) -> None:
    texts = {f"p{n}": f"{word} and more" for n, word in enumerate(("river", "castle", "falcon", "orchid"))}
    queries = {f"q{n}": text.split()[0] for n, text in enumerate(texts.values())} | {"again": "river"}
    weights = {("q0", "p0"): 0.25, ("again", "p0"): 0.75, ("q1", "p1"): 1.0, ("q2", "p2"): 0.5, ("q3", "p3"): 0.5}
    rows = [(query, passage, "train", 1, weight) for (query, passage), weight in weights.items()]
    snapshot = snapshot_of(tmp_path, texts, queries, rows)
    assert sorted(pair_weights(qrels(snapshot)).tolist()) == [0.25, 0.5, 0.5, 0.75, 1.0]
    settings = TrainingSettings()
    data = load_pairs(snapshot, negatives_of(tmp_path, [("q0", "p3")]), encoder, settings)
    by_pair = dict(zip(map(tuple, data.pairs.tolist()), data.weight.tolist(), strict=True))
    assert sorted(by_pair.values()) == [0.5, 0.5, 0.75, 1.0]  # equal texts are one pair, with the highest weight
    weight = batch_at(data, np.arange(4), settings, 0).weight
    assert weight is not None
    assert weight.tolist() == data.weight.tolist()
    equal = np.flatnonzero(data.weight == 0.5)
    assert batch_at(data, equal, settings, 0).weight is None
