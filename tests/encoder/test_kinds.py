"""Each kind of embedding model works from `[encoder] model` alone, with the vectors of sentence-transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_training import next_passages, small_settings, stories
from tiny_kinds import KINDS, save_kind

from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.base.files import write_json
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.embedding.stored_shards import shard_files
from tasks.core.encoder.base_model import adopt_settings, find_bases
from tasks.core.encoder.dense_module import dense_modules, load_projection
from tasks.core.encoder.dual_encoder import DualEncoder, fingerprint, load_encoder, passage_fingerprint
from tasks.core.encoder.hardware import missing_for
from tasks.core.release.publish import publish
from tasks.core.search.searcher import Searcher
from tasks.core.snapshot.reader import passages
from tasks.core.text.normalization import full_text
from tasks.core.training.trainer import base_encoder, train

TEXTS = [
    "a river",
    "the story of one golden violin seen near a castle",
    "",
    "silent",
    "Fluß naïve Ωμέγα 東京 🎻 “quoted”",
    "where was the golden castle seen, and by whom? " * 30,
    "UPPER and lower",
]


class Base:
    """The models of all kinds, and a home with a snapshot, an untrained, and a trained encoder of each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.snapshot: Snapshot = stories(self.home)
        self._made: dict[tuple[str, bool], Encoder] = {}

    def model(self, kind: str) -> Path:
        """Return the model folder of this kind."""
        place = self.folder / kind.replace(" ", "-")
        return place if place.exists() else save_kind(kind, place)

    def settings(self, kind: str, **encoder: object) -> Settings:
        """Return settings that name the model, and default settings of `[encoder]` otherwise."""
        settings = small_settings(self.home, self.model(kind), max_steps=2)
        chosen = EncoderSettings.model_validate({"model": str(self.model(kind)), **encoder})
        return settings.model_copy(update={"encoder": chosen})

    def encoder(self, kind: str, *, trained: bool) -> Encoder:
        """Return the encoder of this kind, from these settings."""
        if (kind, trained) not in self._made:
            settings = self.settings(kind)
            start = base_encoder(self.home, self.snapshot, settings.encoder, settings.embedding)
            made = start
            if trained:
                made = train(self.home, start, self.snapshot, next_passages(self.home, self.snapshot), settings)
            self._made[kind, trained] = made
        return self._made[kind, trained]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("kinds"))


def reference(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}
    ).float()


def vectors_of_both(model: Any, encoder: DualEncoder, *, prompted: bool) -> dict[str, np.ndarray]:
    """Encode the texts as queries and as passages with sentence-transformers, cut as the encoder cuts them."""
    vectors = {}
    for side, name in (("query", "query"), ("passage", "document")):
        model.max_seq_length = encoder.spec.side(side).max_tokens  # type: ignore[arg-type]
        prompt = {"prompt_name": name} if prompted else {}
        vectors[side] = model.encode(TEXTS, normalize_embeddings=True, **prompt)
    return vectors


def check_equal(encoder: DualEncoder, expected: dict[str, np.ndarray]) -> None:
    """Compare all vectors; a text without tokens has no vector in sentence-transformers."""
    for side, encode in (("query", encoder.encode_queries), ("passage", encoder.encode_passages)):
        vectors = encode(TEXTS)
        assert np.isfinite(vectors).all()
        rows = np.linalg.norm(expected[side], axis=1) > 0.5
        assert rows.sum() >= len(TEXTS) - 1
        np.testing.assert_allclose(vectors[rows], expected[side][rows], atol=2e-5, rtol=0)


def passage_vectors(base: Base, receipt: Encoder) -> np.ndarray:
    """Embed the snapshot's passages in two shards. Returns the vectors, in the snapshot's order."""
    embeddings = gather_shards(base.home, receipt, base.snapshot, 2)
    table = pa.concat_tables([pq.read_table(file) for file in shard_files(embeddings)])
    return table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_encoder_and_the_shards_have_the_vectors_of_the_model(kind: str, base: Base) -> None:
    receipt, prompts = base.encoder(kind, trained=False), KINDS[kind].prompts
    encoder, model = load_encoder(receipt.path), reference(base.model(kind))
    assert (encoder.query.prompt, encoder.passage.prompt) == (prompts.get("query", ""), prompts.get("document", ""))
    check_equal(encoder, vectors_of_both(model, encoder, prompted=bool(prompts)))
    rows = [row for batch in passages(base.snapshot) for row in batch.to_pylist()]
    texts = [prompts.get("document", "") + full_text(row["title"], row["text"]) for row in rows]
    expected = model.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(passage_vectors(base, receipt), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_encoder_loads_in_sentence_transformers_with_the_same_vectors(kind: str, base: Base) -> None:
    start, receipt = base.encoder(kind, trained=False), base.encoder(kind, trained=True)
    assert receipt.steps == 2
    assert receipt.passage_fingerprint != start.passage_fingerprint
    before, encoder = load_encoder(start.path), load_encoder(receipt.path)
    assert encoder.spec == before.spec
    assert np.abs(encoder.encode_queries(TEXTS) - before.encode_queries(TEXTS)).max() > 1e-3
    model = reference(receipt.path)
    np.testing.assert_allclose(model.encode_query(TEXTS)[0], encoder.encode_queries(TEXTS)[0], atol=2e-5, rtol=0)
    check_equal(encoder, vectors_of_both(model, encoder, prompted=True))


FAST = ("labse", "qwen3")  # test_architectures.py converts the other architectures
UNCONVERTED = "embeddinggemma"  # OpenVINO cannot convert Gemma 3
PATHS = [
    pytest.param(kind, path, marks=() if path == "openvino-fp32" and kind in FAST else pytest.mark.slow)
    for kind in KINDS
    for path in ("openvino-fp32", "bf16", "openvino-bf16", "openvino-int8")
    if kind != UNCONVERTED or path == "bf16"
]


@pytest.mark.parametrize(("kind", "path"), PATHS)
def test_other_numeric_paths_agree_with_fp32(kind: str, path: Any, base: Base) -> None:
    if missing := missing_for(path):
        pytest.skip(missing)
    settings = base.settings(kind)
    embedding = settings.embedding.model_copy(update={"precision": path})
    receipt = base_encoder(base.home, base.snapshot, settings.encoder, embedding)
    assert receipt.precision == path
    exact = passage_vectors(base, base.encoder(kind, trained=False))
    cosines = (exact * passage_vectors(base, receipt)).sum(axis=1)
    assert cosines.min() > {"openvino-fp32": 0.99999}.get(path, 0.99)


def test_a_model_that_openvino_cannot_convert_is_refused_only_if_the_settings_require_it(base: Base) -> None:
    settings = base.settings(UNCONVERTED)
    embedding = settings.embedding.model_copy(update={"precision": "openvino-fp32"})
    with pytest.raises(NightshiftError, match="openvino cannot convert this Gemma3TextModel"):
        base_encoder(base.home, base.snapshot, settings.encoder, embedding)
    fastest = settings.embedding.model_copy(update={"precision": "fastest"})
    assert base_encoder(base.home, base.snapshot, settings.encoder, fastest).precision in ("fp32", "bf16")


def test_the_served_searcher_embeds_queries_with_the_prompt_of_the_model(base: Base) -> None:
    receipt = base.encoder("qwen3", trained=True)
    settings = Settings(home=base.home, milvus={"grace_minutes": 0, "notice_seconds": 0})  # type: ignore[arg-type]
    embeddings = gather_shards(base.home, receipt, base.snapshot, 2)
    figures: dict[str, Any] = {"metrics": {}, "bm25": {}, "base": {}, "previous": None, "recipe": "", "reason": ""}
    publish(settings, encoder=receipt, embeddings=embeddings, snapshot=base.snapshot, expected_epoch=0, **figures)
    query = "where was the golden castle seen"
    vector = reference(receipt.path).encode(query, prompt=KINDS["qwen3"].prompts["query"])
    scores = passage_vectors(base, receipt) @ vector
    with Searcher.open(settings) as searcher:
        (answer,) = searcher.search(query, 5)
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-4)


def test_a_prompt_that_leaves_no_room_for_the_text_is_refused(base: Base, caplog: pytest.LogCaptureFixture) -> None:
    used = len(load_encoder(base.encoder("qwen3", trained=False).path).query.tokenize([""])[0])
    for tokens, refused in ((used + 2, False), (used, True)):
        settings = base.settings("qwen3", query_tokens=tokens)
        with pytest.raises(NightshiftError, match="so nothing of the text is left") if refused else nullcontext():
            base_encoder(base.home, base.snapshot, settings.encoder, settings.embedding)
    assert "Longer texts are cut: raise [encoder] query_tokens" in caplog.text


def test_two_models_with_different_poolings_are_refused_unless_the_settings_choose(base: Base) -> None:
    models = {"model": str(base.model("bert")), "query_model": str(base.model("roberta")), "shared": False}
    settings = EncoderSettings.model_validate(models)
    with pytest.raises(NightshiftError, match=r'different values of pooling: "(cls|mean)".*set \[encoder\] pooling'):
        adopt_settings(find_bases(settings), settings)
    chosen = EncoderSettings.model_validate({**models, "pooling": "cls"})
    assert adopt_settings(find_bases(chosen), chosen).pooling == "cls"


def change(name: str, **values: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        file = folder / name
        write_json(file, {**(json.loads(file.read_text()) if file.exists() else {}), **values})

    return write


def steps(*kinds: str) -> Callable[[Path], object]:
    return lambda folder: write_json(
        folder / "modules.json",
        [{"idx": n, "name": str(n), "path": f"{n}_", "type": kind} for n, kind in enumerate(kinds)],
    )


SAVED, MODULE = "config_sentence_transformers.json", "sentence_transformers.models"
UNSUPPORTED: dict[str, tuple[Callable[[Path], object], str]] = {
    "sparse": (change(SAVED, model_type="SparseEncoder"), r"a sparse encoder \(SPLADE\)"),
    "sparse, by its steps": (
        steps(f"{MODULE}.MLMTransformer", "sentence_transformers.sparse_encoder.models.SpladePooling"), "SPLADE",
    ),
    "colbert": (change("config.json", architectures=["HF_ColBERT"]), r"a multi-vector encoder \(ColBERT\)"),
    "pylate": (steps(f"{MODULE}.Transformer", "pylate.models.Dense.Dense"), "a vector for each token"),
    "cross-encoder": (change(SAVED, model_type="CrossEncoder"), r"a cross-encoder\), which \[mining\] cross_encoder"),
    "clip": (steps("sentence_transformers.models.CLIPModel"), "images and texts"),
    "images": (change("config.json", vision_config={}), "images and texts"),
    "static": (steps("sentence_transformers.models.StaticEmbedding"), "a table of word vectors"),
    "router": (steps("sentence_transformers.models.Router"), r"query_model to its folder"),
    "own code": (
        change("config.json", model_type="their-bert", auto_map={"AutoModel": "modeling.TheirBert"}),
        r"architecture 'their-bert', which needs code from its own folder \(auto_map in config\.json\)",
    ),
    "dense after normalize": (
        steps(f"{MODULE}.Transformer", f"{MODULE}.Pooling", f"{MODULE}.Normalize", f"{MODULE}.Dense"),
        r"the steps Pooling, Normalize, Dense in this order",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_an_unsupported_kind_is_refused_by_name(case: str, base: Base, tmp_path: Path) -> None:
    make, words = UNSUPPORTED[case]
    shutil.copytree(base.model("bert"), tmp_path / "model")
    make(tmp_path / "model")
    settings = EncoderSettings(model=str(tmp_path / "model"))
    with pytest.raises(NightshiftError, match=words) as refused:
        adopt_settings(find_bases(settings), settings)
    assert str(tmp_path / "model") in str(refused.value)


def test_a_known_architecture_needs_no_code_of_the_model(base: Base, tmp_path: Path) -> None:
    shutil.copytree(base.model("bert"), tmp_path / "model")
    change("config.json", auto_map={"AutoModel": "modeling.TheirBert"})(tmp_path / "model")
    assert find_bases(EncoderSettings(model=str(tmp_path / "model"))).passage == tmp_path / "model"


def test_the_fingerprint_includes_the_activation_of_a_dense_module(base: Base, tmp_path: Path) -> None:
    receipt = base.encoder("labse", trained=False)
    shutil.copytree(receipt.path, tmp_path / "encoder")
    change("2_Dense/config.json", activation_function="torch.nn.modules.activation.ReLU")(tmp_path / "encoder")
    assert fingerprint(tmp_path / "encoder") != receipt.fingerprint
    assert passage_fingerprint(tmp_path / "encoder") != receipt.passage_fingerprint


@pytest.mark.parametrize("kind", ["labse", "embeddinggemma"])
def test_dense_modules_are_trained(kind: str, base: Base) -> None:
    start, trained = (load_projection(base.encoder(kind, trained=trained).path) for trained in (False, True))
    for before, after in zip(dense_modules(start), dense_modules(trained), strict=True):
        assert (before.bias is None) == (after.bias is None)
        assert before.activation_name == after.activation_name
        assert not torch.equal(before.weight, after.weight)
    assert len(dense_modules(trained)) == len(KINDS[kind].dense)


@pytest.mark.parametrize("listed", ["[]", "[{"])
def test_a_lost_list_of_dense_modules_is_damage(listed: str, base: Base, tmp_path: Path) -> None:
    shutil.copytree(base.encoder("sentence-t5", trained=False).path, tmp_path / "encoder")
    (tmp_path / "encoder" / "modules.json").write_text(listed)
    with pytest.raises(Damaged, match=r"Dense modules do not give vectors of 24 numbers|modules\.json: cannot be read"):
        load_encoder(tmp_path / "encoder")
