"""The model card of a release, and its model folder in three libraries."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from core_night import small_settings
from hub_server import hub_server
from huggingface_hub import ModelCard
from things_and_traits import write_collection

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import load
from tasks.core.base.ranking import DENSE
from tasks.core.base.receipts import Encoder, Release
from tasks.core.base.settings import EncoderSettings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.base_model import find_bases
from tasks.core.encoder.dual_encoder import EncoderSpec, fingerprint, load_encoder, start_from
from tasks.core.evaluation.evaluate import evaluate_ranked
from tasks.core.evaluation.systems import System
from tasks.core.release.card import read_card, write_card
from tasks.core.release.publish import publish, serving
from tasks.core.search.export import export
from tasks.core.search.hub import upload
from tasks.core.training.mine_only import mine_source
from tasks.core.training.trainer import base_encoder, train

TOKEN = "hf_a-secret-of-this-test"
TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent"]


@pytest.fixture(scope="module")
def world(tiny_model, tmp_path_factory):
    """Train and publish an encoder with a prompt, without Prefect; return settings, release, and evaluations."""
    folder = tmp_path_factory.mktemp("card")
    settings = small_settings(folder / "home", write_collection(folder / "source", 40), tiny_model)
    prompts = settings.encoder.model_copy(update={"query_prompt": "river: "})
    settings = settings.model_copy(
        update={
            "encoder": prompts,
            "milvus": settings.milvus.model_copy(update={"samples": 8, "min_recall": 0.0}),
            "gate": settings.gate.model_copy(update={"resamples": 200}),
        }
    )
    home = settings.home
    snapshot, negatives = mine_source(settings)
    base = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    encoder = train(home, base, snapshot, negatives, settings)
    embeddings = gather_shards(home, encoder, snapshot, 1)
    figures = {
        system: evaluate_ranked(home, system, trained, vectors, snapshot, DENSE, settings.evaluation)
        for system, trained, vectors in (
            (System.CHALLENGER, encoder, embeddings),
            (System.BASE, base, gather_shards(home, base, snapshot, 1)),
        )
    }
    release = publish(
        settings,
        encoder=encoder,
        embeddings=embeddings,
        snapshot=snapshot,
        metrics=figures[System.CHALLENGER].metrics,
        bm25={},
        base=figures[System.BASE].metrics,
        previous=None,
        recipe="recipe",
        reason="first",
        expected_epoch=serving(settings)[1],
    )
    return settings, release, figures


def test_the_card_has_valid_metadata_and_the_facts_of_the_release(world):
    settings, release, figures = world
    before = fingerprint(load(settings.home, Encoder, release.encoder).path)
    card = ModelCard(write_card(settings.home, release, figures, settings.gate).read_text())
    assert card.data.library_name == "sentence-transformers"
    assert card.data.language == "en"
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {name: round(value, 4) for name, value in release.metrics.items()}
    for fact in (
        release.snapshot,
        release.fingerprint,
        "`river: `",
        f"{release.rows} passages",
        "`training.epochs` = `1.0`",
    ):
        assert fact in card.text
    assert f"| nDCG@10 | {release.metrics['ndcg@10']:.4f} (" in card.text
    assert "Compared with the base model: nDCG@10 " in card.text
    assert str(settings.home) not in card.content
    assert fingerprint(load(settings.home, Encoder, release.encoder).path) == before


def test_a_release_of_an_earlier_version_gets_a_card_without_intervals(world):
    settings, release, _ = world
    earlier = release.model_copy(update={"settings": {}, "release": "r0000-earlier"})
    card = ModelCard(read_card(settings.home, earlier))
    assert f"| nDCG@10 | {release.metrics['ndcg@10']:.4f} | – |" in card.text
    assert not (settings.home / Release.shelf / "r0000-earlier").exists()


def test_the_exported_folder_gives_equal_vectors_in_three_libraries(world, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    settings, release, figures = world
    write_card(settings.home, release, figures, settings.gate)
    folder = export(settings, "serving", "hub", tmp_path / "model")
    assert {"README.md", "release.json", "config.json", "model.safetensors"} <= {file.name for file in folder.iterdir()}
    assert not {"manifest.json", "checksums.json"} & {file.name for file in folder.iterdir()}
    ours = load_encoder(load(settings.home, Encoder, release.encoder).path)
    queries, passages = ours.encode_queries(TEXTS), ours.encode_passages(TEXTS)

    theirs = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(TEXTS), passages, atol=1e-5)

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([f"river: {text}" for text in TEXTS], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    np.testing.assert_allclose(vectors.numpy(), queries, atol=1e-5)

    encoder = EncoderSettings(model=str(folder), query_prompt="river: ", passage_tokens=24)
    again = start_from(find_bases(encoder).passage, EncoderSpec.of(encoder, "fp32"), tmp_path / "again")
    np.testing.assert_allclose(again.encode_queries(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(again.encode_passages(TEXTS), passages, atol=1e-5)


def test_the_hub_gets_the_files_of_the_export_and_no_log_gets_the_token(world, tmp_path):
    settings, release, figures = world
    write_card(settings.home, release, figures, settings.gate)
    folder = export(settings, "serving", "hub", tmp_path / "model")
    exported = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = [sys.executable, "-m", "flows.cli", "--debug", "export", "serving", "--format", "hub"]
    with hub_server(TOKEN) as hub:
        variables = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # large files go through LFS
            "HF_HOME": str(tmp_path / "hf"),
        }
        done = subprocess.run(
            [*command, "--to", "org/name", "--upload"],
            env={**os.environ, **variables, "NIGHTSHIFT_HOME": str(settings.home)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == f"{hub.url}/org/name/commit/{1:040d}"
        assert [(repository["organization"], repository["name"]) for repository in hub.created] == [("org", "name")]
        assert hub.created[0]["visibility"] == "private"
        assert hub.files == exported
        assert hub.objects, "no file was uploaded as an LFS object"
        assert hub.messages == [f"Release {release.release}"]
    stored = [path.read_bytes() for home in (settings.home, folder) for path in home.rglob("*") if path.is_file()]
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN.encode() in content for content in stored)


def test_a_refused_token_and_a_silent_hub_are_reported_with_the_next_step(tmp_path, monkeypatch):
    (tmp_path / "release.json").write_text('{"release": "r0001"}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server("another token") as hub:
        for address, reason in ((hub.url, "401"), ("http://127.0.0.1:9", "refused")):
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
            with pytest.raises(NightshiftError, match=f"(?s)org/name: cannot be uploaded .*{reason}") as refused:
                upload(tmp_path, "org/name")
            assert TOKEN not in str(refused.value)
