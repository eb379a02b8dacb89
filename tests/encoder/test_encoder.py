from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.base.files import MANIFEST, write_json
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.backends.batches import padded_batches
from tasks.core.encoder.base_model import OFFLINE_MODEL, find_base
from tasks.core.encoder.dual_encoder import SPEC, EncoderSpec, fingerprint, load_encoder, read_spec, start_from

TEXTS = [
    "a river",
    "the story of one golden violin seen near a castle",
    "silent",
    "where is the falcon and the harbour",
]


def create_encoder(model: Path, folder: Path, **settings: object) -> Path:
    folder.mkdir()
    start_from(model, EncoderSpec.of(EncoderSettings(**settings), "fp32"), folder)  # type: ignore[arg-type]
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_loads_the_folder_and_gives_the_same_vectors(
    tiny_model: Path, tmp_path: Path, pooling: str
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = create_encoder(tiny_model, tmp_path / "encoder", pooling=pooling, passage_tokens=16)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(load_encoder(folder).encode_passages(TEXTS), theirs, atol=1e-6)


def test_a_vector_does_not_depend_on_its_neighbours_in_the_batch(tiny_model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(create_encoder(tiny_model, tmp_path / "encoder"))
    together = encoder.encode_passages(TEXTS)
    alone = np.concatenate([encoder.encode_passages([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_fingerprint_names_everything_that_decides_a_vector(tiny_model: Path, tmp_path: Path) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"pooling": "cls"},
        {"normalize": False},
        {"query_prompt": "query: "},
        {"passage_tokens": 100},
        {"shared": False},
    ]
    folders = [create_encoder(tiny_model, tmp_path / str(n), **change) for n, change in enumerate(changes)]
    names = {fingerprint(folder) for folder in folders}
    spec = read_spec(folders[0])
    write_json(folders[0] / SPEC, spec.model_copy(update={"precision": "bf16"}).model_dump())
    names.add(fingerprint(folders[0]))
    weights = folders[1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    names.add(fingerprint(folders[1]))
    assert len(names) == len(changes) + 2


DAMAGED = {  # contents of a damaged file -> expected error
    "config.json": (lambda content: content[:40], r"config\.json: cannot be read"),
    "tokenizer.json": (lambda content: b"", r"tokenizer\.json: cannot be read"),
    "encoder.json": (lambda content: b"\xff" + content[1:], r"encoder\.json: cannot be read"),
    "manifest.json": (lambda content: content[: len(content) // 2], r"manifest\.json: cannot be read"),
    "model.safetensors": (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "was damaged or altered"),
    "tokenizer_config.json": (lambda content: content.replace(b"[UNK]", b"[ONK]"), "was damaged or altered"),
}


@pytest.mark.parametrize("shared", [True, False])
def test_damage_to_any_file_of_an_encoder_is_reported(shared: bool, tiny_model: Path, tmp_path: Path) -> None:
    whole = create_encoder(tiny_model, tmp_path / "encoder", shared=shared)
    write_json(whole / MANIFEST, {"fingerprint": fingerprint(whole)})
    load_encoder(whole)
    place = Path() if shared else Path("passage")
    cases = [(name, change, words) for name, (change, words) in DAMAGED.items()]
    cases += [(name, None, "missing|cannot be read|altered") for name in DAMAGED if name != MANIFEST]
    cases += [
        ("encoder.json", lambda content: b"[]", "not a JSON object"),
        ("encoder.json", lambda content: b"{}", "shared"),
    ]
    for number, (name, change, words) in enumerate(cases):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        file = folder / name if name in (SPEC, MANIFEST) else folder / place / name
        if change is None:
            file.unlink()
        else:
            file.write_bytes(change(file.read_bytes()))
        with pytest.raises(Damaged, match=f"(?s)({words}).*nightshift rollback"):
            load_encoder(folder)


def test_the_fingerprint_does_not_depend_on_random_state(tiny_model: Path, tmp_path: Path) -> None:
    names = set()
    for seed in (1, 2):  # the tiny model has no pooler: the library draws one
        torch.manual_seed(seed)
        names.add(fingerprint(create_encoder(tiny_model, tmp_path / str(seed))))
    assert len(names) == 1


def test_a_model_with_missing_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NightshiftError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        create_encoder(broken, tmp_path / "encoder")


def test_each_prompt_is_added_only_to_its_own_side(tiny_model: Path, tmp_path: Path) -> None:
    plain = load_encoder(create_encoder(tiny_model, tmp_path / "plain"))
    prompted = load_encoder(create_encoder(tiny_model, tmp_path / "prompted", query_prompt="find the story of "))
    np.testing.assert_array_equal(plain.encode_passages(TEXTS), prompted.encode_passages(TEXTS))
    with_prompt = ["find the story of " + text for text in TEXTS]
    np.testing.assert_allclose(prompted.encode_queries(TEXTS), plain.encode_queries(with_prompt), atol=1e-6)


def test_a_micro_batch_exceeds_the_token_budget_only_for_a_single_long_text() -> None:
    lengths = [1, 2, 2, 3, 5, 9, 40]
    batches = padded_batches(lengths, token_budget=10)
    assert [row for batch in batches for row in batch] == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 10 for batch in batches)


def test_the_base_model_comes_from_the_offline_package_and_its_hash_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (find_base(OFFLINE_MODEL) / "config.json").is_file()
    monkeypatch.setattr("tasks.core.encoder.base_model.OFFLINE_SHA256", "0" * 64)
    with pytest.raises(NightshiftError, match=r"have sha256 53aa51172d14…, not 000000000000….*Reinstall"):
        find_base(OFFLINE_MODEL)


def test_a_missing_base_model_is_reported_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NightshiftError, match=r"no config\.json in it\. Give the folder that holds the model"):
        find_base(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NightshiftError, match=r"nobody/no-such-model: not a folder here, .* Give .* a local folder"):
        find_base("nobody/no-such-model")


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(NightshiftError, match="safetensors"):
        find_base(str(tmp_path))
