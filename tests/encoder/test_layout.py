from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from small_models import KINDS, made

from tasks.core.base.files import write_json
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import OFFLINE_MODEL, find_base
from tasks.core.encoder.dual_encoder import EncoderSpec, fingerprint, load_encoder, save_encoder, start_from

TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent", "one " * 30, ""]
CASES: dict[str, dict[str, object]] = {
    "mean": {},
    "cls": {"pooling": "cls"},
    "last": {"pooling": "last"},
    "lengths kept": {"normalize": False},
    "projected": {"dimension": 12},
    "cut": {"serve_dimension": 8},
    "projected and cut": {"dimension": 12, "serve_dimension": 5, "normalize": False},
}


def check(folder: Path) -> None:
    """Check that sentence-transformers and Nightshift compute the same vectors for both towers in `folder`."""
    from sentence_transformers import SentenceTransformer

    ours = load_encoder(folder)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert theirs.get_embedding_dimension() == ours.dimension
    np.testing.assert_allclose(ours.encode_queries(TEXTS), theirs.encode_query(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours.encode_passages(TEXTS), theirs.encode_document(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_sentence_transformers_gives_the_same_vectors(
    case: str, shared: bool, tiny_model: Path, tmp_path: Path
) -> None:
    settings = EncoderSettings(
        shared=shared,
        query_prompt="find: ",
        passage_prompt="a story: ",
        query_tokens=9,
        passage_tokens=20,
        **CASES[case],  # type: ignore[arg-type]
    )
    start_from(tiny_model, EncoderSpec.of(settings, "fp32"), tmp_path)
    write_json(tmp_path / "manifest.json", {"fingerprint": fingerprint(tmp_path)})
    check(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_sentence_transformers_gives_the_same_vectors_of_any_architecture(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    base = made(kind, tiny_model, tmp_path / "base")
    folder = tmp_path / "encoder"
    folder.mkdir()
    pooling = "last" if kind == "qwen3" else "mean"
    start_from(base, EncoderSpec.of(EncoderSettings(pooling=pooling, passage_tokens=500), "fp32"), folder)
    check(folder)


@pytest.mark.parametrize("settings", [{}, {"shared": False, "dimension": 64, "serve_dimension": 32}])
def test_sentence_transformers_gives_the_same_vectors_of_the_offline_model(
    settings: dict[str, object], tmp_path: Path
) -> None:
    start_from(find_base(OFFLINE_MODEL), EncoderSpec.of(EncoderSettings(**settings), "fp32"), tmp_path)  # type: ignore[arg-type]
    check(tmp_path)


def test_separate_encoders_also_load_individually(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    spec = EncoderSpec.of(EncoderSettings(shared=False, passage_prompt="a story: "), "fp32")
    start_from(tiny_model, spec, tmp_path)
    passage = SentenceTransformer(str(tmp_path / "passage"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(
        load_encoder(tmp_path).encode_passages(TEXTS), passage.encode_document(TEXTS), atol=1e-5, rtol=0
    )


def test_the_weights_are_stored_once(tiny_model: Path, tmp_path: Path) -> None:
    spec = EncoderSpec.of(EncoderSettings(dimension=12, serve_dimension=5), "fp32")
    start_from(tiny_model, spec, tmp_path)
    weights = {str(path.relative_to(tmp_path)): load_file(path) for path in tmp_path.rglob("*.safetensors")}
    assert set(weights) == {"model.safetensors", "2_Dense/model.safetensors", "3_Cut/model.safetensors"}
    assert weights["3_Cut/model.safetensors"]["linear.weight"].shape == (5, 12)


@pytest.mark.parametrize("shared", [True, False])
def test_saved_bytes_do_not_depend_on_texts_encoded_before(shared: bool, tiny_model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    encoder = start_from(tiny_model, EncoderSpec.of(EncoderSettings(shared=shared, dimension=4), "fp32"), first)
    encoder.encode_passages(TEXTS)  # sets a limit and a padding on the tokenizer
    encoder.encode_queries(TEXTS)
    second.mkdir()
    save_encoder(encoder, second)
    assert fingerprint(first) == fingerprint(second)
    for tokenizer in second.rglob("tokenizer.json"):
        assert json.loads(tokenizer.read_text())["truncation"] is None
