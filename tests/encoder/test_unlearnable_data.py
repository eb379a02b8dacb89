"""A night with nothing to learn stops before training, and reports the reason."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from small_snapshot import snapshot_of
from small_training import small_settings, stories

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.encoder.base_model import OFFLINE_MODEL, find_base
from tasks.core.encoder.learnable import check_learnable, tokenize_sample
from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.training import trainer

THAI = ["ข้าวผัดกุ้งอร่อยมาก", "รถไฟฟ้าสายสีเขียว", "ตลาดน้ำดำเนินสะดวก", "มหาวิทยาลัยเชียงใหม่"]
KHMER = ["ភាសាខ្មែរ", "ប្រាសាទអង្គរវត្ត", "ទន្លេមេគង្គ", "ព្រះរាជាណាចក្រកម្ពុជា"]


def in_script(home: Path, words: list[str], extra: str = "") -> Snapshot:
    texts = {f"p{n}": words[n % 4] * (1 + n // 4) + extra for n in range(40)}
    queries = {f"q{n}": texts[f"p{n}"][:9] + extra for n in range(40)}
    return snapshot_of(home, texts, queries, [(f"q{n}", f"p{n}", "train") for n in range(40)])


def base(home: Path, model: Path | str, snapshot: Snapshot) -> Encoder:
    settings = small_settings(home, Path(model))
    return trainer.base_encoder(home, snapshot, settings.encoder, settings.embedding)


@pytest.mark.parametrize("words", [THAI, KHMER], ids=["thai", "khmer"])
def test_texts_of_unknown_tokens_stop_training_and_cause_a_warning_in_any_night(
    words: list[str], tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = in_script(tmp_path, words)
    encoder = base(tmp_path, tiny_model, snapshot)
    with pytest.raises(BadInput, match=r"in 40 of 40 training pairs, .* are unknown.*made for the language") as stop:
        check_learnable(encoder, snapshot, will_train=True)
    assert str(tiny_model) in str(stop.value)
    caplog.clear()
    check_learnable(encoder, snapshot, will_train=False)
    assert "100.0% of the queries' tokens and 100.0% of the passages' are unknown" in caplog.text


def test_a_moderate_share_of_unknown_tokens_causes_a_warning(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = in_script(tmp_path, ["river", "castle", "violin", "engine"], " ตลาดน้ำ")
    check_learnable(base(tmp_path, tiny_model, snapshot), snapshot, will_train=True)
    assert "of the queries' tokens and" in caplog.text


def test_known_tokens_cause_no_warning(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshot = stories(tmp_path)
    with caplog.at_level(logging.WARNING):
        check_learnable(base(tmp_path, tiny_model, snapshot), snapshot, will_train=True)
    assert caplog.text == ""


def test_different_texts_with_the_same_tokens_stop_training(tiny_model: Path, tmp_path: Path) -> None:
    texts = {f"p{n}": "river " * 30 + f"number {n}" for n in range(20)}  # equal up to the limit of 24 tokens
    queries = {f"q{n}": f"a castle {n}" for n in range(20)}
    snapshot = snapshot_of(tmp_path, texts, queries, [(f"q{n}", f"p{n}", "train") for n in range(20)])
    with pytest.raises(BadInput, match="all 20 different training passages have the same tokens"):
        check_learnable(base(tmp_path, tiny_model, snapshot), snapshot, will_train=True)


def test_an_encoder_that_maps_all_texts_to_the_same_vector_stops_training(tiny_model: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    shutil.copytree(tiny_model, flat)
    weights = {name: value * 0 for name, value in load_file(flat / "model.safetensors").items()}
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, flat / "model.safetensors", metadata={"format": "pt"})
    snapshot = stories(tmp_path / "home")
    settings = small_settings(tmp_path / "home", flat)
    encoder = trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    with pytest.raises(BadInput, match="the vectors of 32 different queries are all the same"):
        check_learnable(encoder, snapshot, will_train=True)


def test_the_share_of_unknown_tokens_excludes_special_tokens(tiny_model: Path) -> None:
    tokenized = tokenize_sample(read_tokenizer(tiny_model), ["river castle", "river ตลาด", "ตลาด", ""], 24)
    np.testing.assert_allclose(tokenized.by_text, [0, 0.5, 1, 1])
    assert tokenized.unknown == pytest.approx(2 / 5)
    assert tokenized.different == 4


def test_the_default_model_knows_english_and_no_thai(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(find_base(OFFLINE_MODEL))
    assert tokenize_sample(tokenizer, THAI + KHMER, 64).unknown == 1
    assert tokenize_sample(tokenizer, ["Résumé of the café: 12 °C, naïve & co."], 64).unknown == 0
