"""A faster numeric path is used only if it is faithful to fp32 on this snapshot."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.embedding import INT8, EmbeddingSettings
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.encoder import hardware as machine
from tasks.core.encoder.backends import graph
from tasks.core.encoder.dual_encoder import EncoderSpec, load_encoder, passage_fingerprint, read_spec, start_from
from tasks.core.encoder.hardware import missing_for, paths_here
from tasks.core.evaluation.significance import interval
from tasks.core.ingest.ingest import ingest
from tasks.core.training.numeric_path import Choice, _is_accepted, choose_precision
from tasks.core.training.trainer import base_encoder

int8 = pytest.mark.skipif(bool(missing_for("openvino-int8")), reason=missing_for("openvino-int8"))


@pytest.fixture
def snapshot(collection: Callable[..., Path], tmp_path: Path) -> Snapshot:
    source = collection()
    train, dev = source / "qrels" / "train.tsv", source / "qrels" / "dev.tsv"
    most, few = train.read_text(), dev.read_text()
    train.write_text(few)
    dev.write_text(most)  # 36 dev queries
    data = {"format": "beir", "path": source}
    return ingest(Settings(home=tmp_path / "home", data=data))[1]  # type: ignore[arg-type]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """An encoder with large random weights, whose vectors change when weights are rounded."""
    from transformers import BertConfig, BertModel

    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    torch.manual_seed(0)
    BertModel(BertConfig.from_pretrained(tiny_model, initializer_range=0.5)).save_pretrained(base)
    (tmp_path / "encoder").mkdir()
    start_from(base, EncoderSpec.of(EncoderSettings(), "fp32"), tmp_path / "encoder")
    return tmp_path / "encoder"


def chosen(folder: Path, snapshot: Snapshot, **options: object) -> Choice:
    choice = choose_precision(folder, snapshot, EmbeddingSettings(**options))  # type: ignore[arg-type]
    assert read_spec(folder).precision == choice.precision
    return choice


def test_auto_chooses_the_fastest_faithful_float_path(folder: Path, snapshot: Snapshot) -> None:
    choice = chosen(folder, snapshot, min_cosine=0.5, max_ndcg_change=1.0)
    assert choice.precision == next(path for path in paths_here() if path not in INT8)
    assert choice.precision == "fp32" or 0.5 < choice.fidelity < 1.001
    assert choice.precision == "fp32" or choice.ndcg_change is not None


def test_a_path_below_the_minimum_cosine_is_refused_with_its_figures_and_the_next_is_tried(
    folder: Path, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nightshift.encoder"):
        choice = chosen(folder, snapshot, min_cosine=0.999999, max_ndcg_change=1.0)
    assert choice.precision in ("openvino-fp32", "fp32")
    refused = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
    assert len(refused) == [path for path in paths_here() if path not in INT8].index(choice.precision)
    assert all("cosine to fp32 0." in line and "(bound 0.999999)" in line for line in refused)


@int8
def test_an_unfaithful_int8_path_is_refused_and_leaves_no_int8_graph(
    folder: Path, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    lenient = {"min_cosine": 0.1, "max_ndcg_change": 1.0, "int8_min_cosine": 0.1}
    taken = chosen(folder, snapshot, precision="fastest", int8_max_ndcg_change=1.0, **lenient)
    assert taken.precision == paths_here()[0]
    assert (folder / graph.XML).is_file()
    assert taken.ndcg_change is not None
    assert taken.ndcg_interval[0] < taken.ndcg_change < taken.ndcg_interval[1]  # rounding moved passages past others
    refused = chosen(folder, snapshot, precision="fastest", **lenient | {"int8_min_cosine": 0.999999})
    assert refused.precision == next(path for path in paths_here() if path not in INT8)
    assert (
        f"{taken.precision} is not used, because it is not faithful here: cosine to fp32 {taken.fidelity:.5f}"
        in caplog.text
    )
    assert not (folder / graph.XML).exists()


def measured(change: float, spread: float, queries: int, cosine: float = 0.9999) -> Choice:
    """Return a path whose nDCG@10 changes by `change` on average over `queries` queries."""
    changes = np.random.default_rng(0).normal(0, spread, queries)
    changes += change - changes.mean()
    return Choice("bf16", cosine, float(changes.mean()), interval(changes, GateSettings(resamples=500)), queries)


def test_a_path_is_refused_only_for_a_significant_loss_above_the_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = EmbeddingSettings()
    cases = [  # change of nDCG@10, standard deviation over queries, queries, whether the path is taken
        (+0.0042, 0.01, 500, True),  # better
        (+0.0500, 0.01, 500, True),
        (-0.0010, 0.001, 500, True),  # less than the bound, however sure
        (-0.0042, 0.10, 500, True),  # within chance
        (-0.0042, 0.01, 500, False),
        (-0.0400, 0.01, 20, True),  # few queries: the cosine decides
        (0.0, 0.0, 500, True),
    ]
    for change, spread, queries, taken in cases:
        assert _is_accepted(measured(change, spread, queries), settings) is taken, (change, spread, queries)
        assert not _is_accepted(measured(change, spread, queries, cosine=0.99), settings)
    assert "nDCG@10 +0.0042 (" in caplog.text
    assert "on 20 dev queries, too few to decide (bound -0.002)" in caplog.text


def test_an_explicit_path_is_used_with_a_warning_if_it_is_unfaithful(
    folder: Path, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(folder, snapshot, precision="bf16", min_cosine=1.0).precision == "bf16"
    assert "bf16 is not faithful here, but" in caplog.text


def test_an_explicit_path_that_is_unsupported_is_an_error(
    folder: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)  # as where the extra is not installed
    with pytest.raises(NightshiftError, match=r'precision = "openvino-fp32": openvino is not installed.*pip install'):
        chosen(folder, snapshot, precision="openvino-fp32")
    assert not [path for path in paths_here() if path.startswith("openvino")]


@int8
def test_an_int8_encoder_is_sealed_with_its_graph_and_metrics_and_an_altered_graph_is_detected(
    tiny_model: Path, snapshot: Snapshot, tmp_path: Path
) -> None:
    settings = Settings(
        encoder={"model": str(tiny_model)},  # type: ignore[arg-type]
        embedding={"precision": "openvino-int8"},  # type: ignore[arg-type]
    )
    encoder = base_encoder(tmp_path / "home", snapshot, settings.encoder, settings.embedding)
    assert encoder.precision == "openvino-int8"
    assert 0.9 < encoder.fidelity < 1
    assert encoder.ndcg_change is not None
    assert load_encoder(encoder.path).encode_queries(["a river"]).shape == (1, 32)
    load_encoder.cache_clear()
    file = encoder.path / graph.BIN
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(Damaged, match="altered"):
        load_encoder(encoder.path)


@int8
def test_a_frozen_passage_side_keeps_its_int8_graph(tiny_model: Path, snapshot: Snapshot, tmp_path: Path) -> None:
    settings = EmbeddingSettings(precision="openvino-int8")
    start, later = tmp_path / "start", tmp_path / "later"
    for folder, kept in ((start, None), (later, start)):
        folder.mkdir()
        start_from(tiny_model, EncoderSpec.of(EncoderSettings(shared=False), "fp32"), folder)
        if kept is not None:  # as if made by another release, whose calibration gave other numbers
            (start / "passage" / graph.XML).open("a").write("\n")
        choose_precision(folder, snapshot, settings, kept)
    assert passage_fingerprint(later) == passage_fingerprint(start)
