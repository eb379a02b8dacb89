"""OpenVINO computes the same vectors as torch for many architectures; for others torch is used."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.encoder.backends import graph
from tasks.core.encoder.backends.openvino import OpenVino
from tasks.core.encoder.dual_encoder import EncoderSpec, start_from
from tasks.core.encoder.hardware import missing_for, paths_here
from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.encoder.tower import Side, Tower
from tasks.core.ingest.ingest import ingest
from tasks.core.training.numeric_path import choose_precision

pytestmark = pytest.mark.skipif(bool(missing_for("openvino-fp32")), reason=missing_for("openvino-fp32"))

TEXTS = ["a river", "the story of one golden violin seen near a castle", "", "a castle " * 20]
SMALL = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
SMALL_OTHERWISE: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "longformer": {"attention_window": 8},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "qwen2": {"num_key_value_heads": 2},
}
KINDS = [
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "mpnet",
    "electra",
    "albert",
    "modernbert",
    "deberta-v2",
    "qwen2",
]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_equal_those_of_torch(kind: str, tiny_model: Path) -> None:
    tower = tower_of(kind, tiny_model)
    ids = tower.tokenize(TEXTS)
    exact = tower.encode(ids, 256)
    tower.backend = OpenVino(graph.convert(tower), "openvino-fp32", 0, 60, 1)
    np.testing.assert_allclose(tower.encode(ids, 256), exact, atol=1e-5)


def test_the_error_names_an_operation_that_openvino_lacks(tiny_model: Path) -> None:
    class Bessel(torch.nn.Module):
        out_features = 32

        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            return torch.special.bessel_j0(vectors)

    tower, before = tower_of("bert", tiny_model), logging.getLogger().level
    tower.projection = Bessel()  # type: ignore[assignment]
    with pytest.raises(NightshiftError, match=r"openvino cannot convert this BertModel \(.*bessel_j0"):
        graph.convert(tower)
    assert logging.getLogger().level == before  # OpenVINO raises the level when a conversion fails


@pytest.mark.skipif(not any(path.startswith("openvino") for path in paths_here()), reason="torch is faster here")
def test_torch_is_used_when_openvino_computes_other_vectors(
    tiny_model: Path, collection: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = "longformer"  # pads by text length, but the graph knows only the length used in the conversion
    tower_of(kind, tiny_model).transformer.save_pretrained(tmp_path / "base")
    read_tokenizer(tiny_model).save_pretrained(tmp_path / "base")
    data = {"format": "beir", "path": collection()}
    snapshot = ingest(Settings(home=tmp_path / "home", data=data))[1]  # type: ignore[arg-type]
    folder = tmp_path / "encoder"
    folder.mkdir()
    start_from(tmp_path / "base", EncoderSpec.of(EncoderSettings(), "fp32"), folder)
    choice = choose_precision(folder, snapshot, EmbeddingSettings(min_cosine=0.9999))
    assert not choice.precision.startswith("openvino")
    assert re.search(r"openvino-\S+ is not used, because it is not faithful here: cosine to fp32 0\.", caplog.text)


def tower_of(kind: str, tiny_model: Path) -> Tower:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, **SMALL_OTHERWISE.get(kind, {})))
    model.config.use_cache = False  # as when read from a folder
    return Tower(read_tokenizer(tiny_model), model.eval(), None, Side("mean", True, 0, 0, "", 60))
