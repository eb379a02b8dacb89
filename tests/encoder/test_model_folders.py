"""A base model is used exactly as published, or refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import small_settings, stories

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_json
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import check_bases, find_bases
from tasks.core.encoder.dual_encoder import EncoderSpec, load_encoder, start_from
from tasks.core.training.trainer import base_encoder, check_base

TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent", "one " * 30, "a castle"]
Damage = Callable[[Path], object]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 90868376\n"


def remove(*patterns: str) -> Damage:
    return lambda folder: [file.unlink() for pattern in patterns for file in folder.glob(pattern)]


def put(name: str, content: str | bytes) -> Damage:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str) -> Damage:
    return lambda folder: put(name, (folder / name).read_bytes()[:1500])(folder)


def config(**changes: object) -> Damage:
    def change(folder: Path) -> None:
        held = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", {**held, **changes})

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def adapters(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})


def special_tokens_alone(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[UNK]\n[PAD]\n[CLS]\n[SEP]\n")


def half_indexed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_json(folder / "model.safetensors.index.json", {"weight_map": names})


BROKEN: dict[str, tuple[Damage, str]] = {
    "no tokenizer": (remove("tokenizer.json", "vocab.txt"), r"no tokenizer in it \(none of tokenizer.json, vocab.txt"),
    "tokenizer of special tokens": (
        special_tokens_alone, "tokens, all of them special, so every word would be unknown",
    ),
    "cut tokenizer": (cut("tokenizer.json"), r"transformers cannot load it"),
    "pointer to weights": (put("model.safetensors", POINTER), r"model\.safetensors: a Git LFS pointer.*git lfs pull"),
    "pointer to tokenizer": (put("tokenizer.json", POINTER), r"tokenizer\.json: a Git LFS pointer"),
    "pointer to config": (put("config.json", POINTER), r"config\.json: a Git LFS pointer"),
    "cut weights": (cut("model.safetensors"), r"model\.safetensors: not a complete .*1,500 bytes.*again"),
    "empty weights": (put("model.safetensors", b""), r"model\.safetensors: not a complete safetensors file \(0 bytes"),
    "pickled weights": (pickled, r"there is pytorch_model\.bin.*never loaded.*save_pretrained"),
    "adapters": (adapters, r"contains adapters .* but no model\. Merge them"),
    "half of the files of weights": (half_indexed, r"model-00002-of-00002\.safetensors is missing"),
    "cut config": (put("config.json", '{"model_type": "be'), r"config\.json: not valid JSON"),
    "config of nothing": (put("config.json", "{}"), r"config\.json: no model_type in it"),
    "config of an unknown model": (config(model_type="what"), "transformers cannot load it .*`what`"),
    "config of a larger model": (config(hidden_size=64), "config.json and its safetensors do not match .*two models"),
    "config of a longer model": (config(num_hidden_layers=3), "weights are not in its safetensors .*would be random"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_an_incomplete_model_folder_is_refused_with_the_file_and_the_next_step(
    case: str, tiny_model: Path, tmp_path: Path
) -> None:
    damage, words = BROKEN[case]
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    damage(base)
    settings = small_settings(tmp_path / "home", base)
    with pytest.raises(NightshiftError, match=f"(?s){words}") as refused:
        base_encoder(settings.home, stories(settings.home), settings.encoder, settings.embedding)
    assert str(base) in str(refused.value)


def sentence_model(tiny: Path, folder: Path, *steps: Any, pooling: str = "mean", **more: Any) -> Path:
    """Make a model folder in the format of sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(3)
    include = more.pop("include_prompt", True)
    parts = [Transformer(str(tiny)), Pooling(32, pooling_mode=pooling, include_prompt=include), *steps]
    SentenceTransformer(modules=parts, device="cpu", **more).save_pretrained(str(folder), create_model_card=False)
    return folder


def dense(**more: Any) -> Any:
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(5)
    linear = {"in_features": 32, "out_features": 12, "bias": False, "activation_function": torch.nn.Identity()}
    return Dense(**{**linear, **more})


def narrow() -> Any:
    return dense(in_features=48, activation_function=torch.nn.Tanh())


def normalize() -> Any:
    from sentence_transformers.base.modules import Normalize

    return Normalize()


PROMPTS = {"query": "find: ", "passage": "the story of "}
OWN: dict[str, tuple[Callable[[Path, Path], Path], dict[str, object]]] = {
    "plain": (lambda tiny, to: sentence_model(tiny, to, normalize()), {}),
    "max": (lambda tiny, to: sentence_model(tiny, to, normalize(), pooling="max"), {"pooling": "max"}),
    "weighted": (lambda tiny, to: sentence_model(tiny, to, pooling="weightedmean"), {"pooling": "weighted_mean"}),
    "root": (
        lambda tiny, to: sentence_model(tiny, to, pooling="mean_sqrt_len_tokens", similarity_fn_name="dot"),
        {"pooling": "mean_sqrt_len", "normalize": False},
    ),
    "cls": (lambda tiny, to: sentence_model(tiny, to, normalize(), pooling="cls"), {"pooling": "cls"}),
    "dense": (lambda tiny, to: sentence_model(tiny, to, dense(), normalize()), {"dimension": 12}),
    "dense with tanh": (
        lambda tiny, to: sentence_model(tiny, to, dense(bias=True, activation_function=torch.nn.Tanh()), normalize()),
        {"dimension": 12},
    ),
    "two dense": (
        lambda tiny, to: sentence_model(tiny, to, dense(out_features=48, bias=True), narrow(), normalize()),
        {"dimension": 12},
    ),
    "prompts": (
        lambda tiny, to: sentence_model(tiny, to, normalize(), prompts=PROMPTS),
        {"query_prompt": "find: ", "passage_prompt": "the story of "},
    ),
    "default prompt": (
        lambda tiny, to: sentence_model(tiny, to, prompts={"search": "find: "}, default_prompt_name="search"),
        {"query_prompt": "find: ", "passage_prompt": "find: "},
    ),
    "cut": (lambda tiny, to: sentence_model(tiny, to, normalize(), truncate_dim=8), {"serve_dimension": 8}),
}


@pytest.mark.parametrize("case", OWN)
def test_a_sentence_transformers_model_gives_its_own_vectors_or_an_error_names_the_missing_settings(
    case: str, tiny_model: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    make, stated = OWN[case]
    base = make(tiny_model, tmp_path / "base")
    if stated:
        with pytest.raises(NightshiftError) as refused:
            check_bases(find_bases(EncoderSettings(model=str(base))), EncoderSettings(model=str(base)))
        for name, value in stated.items():
            assert f"  {name} = {json.dumps(value)}  # " in str(refused.value)
    settings = EncoderSettings.model_validate({"model": str(base), "query_tokens": 40, "passage_tokens": 40, **stated})
    check_bases(find_bases(settings), settings)
    folder = tmp_path / "encoder"
    folder.mkdir()
    start_from(base, EncoderSpec.of(settings, "fp32"), folder)
    ours, theirs = load_encoder(folder), SentenceTransformer(str(base), device="cpu", local_files_only=True)
    scaled = {"normalize_embeddings": settings.normalize}
    for texts, encode, name in ((TEXTS, ours.encode_queries, "query"), (TEXTS, ours.encode_passages, "passage")):
        prompt = stated.get(f"{name}_prompt", "")
        np.testing.assert_allclose(encode(texts), theirs.encode(texts, prompt=prompt, **scaled), atol=1e-5, rtol=0)
    again = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(ours.encode_passages(TEXTS), again.encode_document(TEXTS), atol=1e-5, rtol=0)


def custom_step(folder: Path) -> None:
    steps = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [*steps, {"idx": 2, "name": "2", "path": "2_X", "type": "their_code.Whiten"}])


def layer_norm(tiny: Path, folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    return sentence_model(tiny, folder, LayerNorm(32))


def with_custom_step(tiny: Path, folder: Path) -> Path:
    custom_step(sentence_model(tiny, folder))
    return folder


LACKING: dict[str, tuple[Callable[[Path, Path], Path], dict[str, object], str]] = {
    "a dense step with a residual": (
        lambda tiny, to: sentence_model(tiny, to, dense(use_residual=True)), {},
        r"dimension = …  # the Dense step 2_Dense has a residual connection; 0 skips it",
    ),
    "a dense step with a rare activation": (
        lambda tiny, to: sentence_model(tiny, to, dense(activation_function=torch.nn.Softsign())), {},
        r"dimension = …  # the Dense step 2_Dense has the activation torch\.nn\.modules\.activation\.Softsign; 0 skips",
    ),
    "two poolings": (
        lambda tiny, to: sentence_model(tiny, to, pooling=("mean", "max")), {},  # type: ignore[arg-type]
        r"pooling = …  # 1_Pooling/config.json joins 2 poolings",
    ),
    "a similarity": (
        lambda tiny, to: sentence_model(tiny, to, similarity_fn_name="manhattan"), {},
        "normalize = …  # similarity_fn_name = 'manhattan'",
    ),
    "prompts left out of the pooling": (
        lambda tiny, to: sentence_model(tiny, to, prompts=PROMPTS, include_prompt=False),
        {"query_prompt": "find: "}, r"include_prompt = false in 1_Pooling/config\.json",
    ),
    "a layer norm": (layer_norm, {}, r"the step LayerNorm \(2_LayerNorm\)"),
    "custom code": (with_custom_step, {}, r"the step their_code\.Whiten"),
}  # fmt: skip


@pytest.mark.parametrize("case", LACKING)
def test_unsupported_models_are_refused_with_the_reason(case: str, tiny_model: Path, tmp_path: Path) -> None:
    make, stated, words = LACKING[case]
    settings = EncoderSettings.model_validate({"model": str(make(tiny_model, tmp_path / "base")), **stated})
    with pytest.raises(NightshiftError, match=words):
        check_bases(find_bases(settings), settings)


def test_an_explicit_setting_overrides_the_model_with_a_warning(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = sentence_model(tiny_model, tmp_path / "base", dense(activation_function=torch.nn.Tanh()), pooling="max")
    settings = EncoderSettings(model=str(base), pooling="mean", dimension=0)
    check_bases(find_bases(settings), settings)
    assert '[encoder] pooling = "mean" overrides the model\'s own "max" (1_Pooling/config.json)' in caplog.text
    assert "[encoder] dimension = 0 overrides the model's own 12 (the Dense step 2_Dense)" in caplog.text


@pytest.mark.parametrize("written", [{"pooling_mode": "cls"}, {"pooling_mode_cls_token": True}])
def test_both_formats_of_a_pooling_file_are_read(written: dict[str, object], tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    write_json(base / "1_Pooling" / "config.json", written)
    settings = EncoderSettings(model=str(base))
    with pytest.raises(NightshiftError, match=r'pooling = "cls"  # 1_Pooling/config\.json'):
        check_bases(find_bases(settings), settings)


def test_a_home_made_with_other_settings_still_works(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    settings = small_settings(tmp_path / "home", base)
    snapshot = stories(settings.home)
    before = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    write_json(base / "1_Pooling" / "config.json", {"pooling_mode": "cls"})  # not part of the artifact key
    again = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    assert again.reused
    assert again.digest == before.digest
    check_base(settings.home, settings.encoder, settings.embedding)
    elsewhere = settings.model_copy(update={"home": tmp_path / "new"})
    with pytest.raises(NightshiftError, match='pooling = "cls"'):
        check_base(elsewhere.home, elsewhere.encoder, elsewhere.embedding)
