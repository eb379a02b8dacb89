"""Exports of training data: sentence-transformers trains on them, and our readers read them."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_training import negatives_of, small_settings, stories
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.errors import NightshiftError
from tasks.core.ingest.ingest import ingest
from tasks.core.training.pairs import POSITIVES
from tasks.core.training.training_files import LAYOUTS, write_training_files


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a home, its snapshot, and negatives: three for each of q0 to q2, and one for q5."""
    home = tmp_path_factory.mktemp("training-files") / "home"
    pairs = [(f"q{query}", f"p{query + step}") for query in range(3) for step in (10, 11, 12)]
    return home, stories(home), negatives_of(home, [*pairs, ("q5", "p20")])


def lines(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_rows_have_the_texts_of_query_positive_and_negatives(world, tmp_path):
    _, snapshot, negatives = world
    folder = {form: write_training_files(form, snapshot, negatives, tmp_path / form) for form in LAYOUTS}
    triplets, tuples = lines(folder["triplets"]), lines(folder["n-tuples"])
    assert len(triplets) == 10
    assert set(triplets[0]) == {"anchor", "positive", "negative"}
    assert len(tuples) == 3  # q5 has fewer negatives
    assert list(tuples[0]) == ["anchor", "positive", "negative_1", "negative_2", "negative_3"]
    texts = {row["passage_id"]: row["text"] for row in pq.read_table(snapshot.path / "passages.parquet").to_pylist()}
    assert list(tuples[0].values())[1:] == [texts[name] for name in ("p0", "p10", "p11", "p12")]
    assert pq.read_table(folder["sentence-transformers"] / "data").to_pylist() == tuples
    (last,) = (row for row in lines(folder["tevatron"]) if row["query_id"] == "q5")
    assert [passage["docid"] for passage in last["negative_passages"]] == ["p20"]


def test_margins_of_the_teacher_are_the_label(world, tmp_path):
    home, snapshot, _ = world
    scores = {"teacher_score": [0.25, -1.0]}
    negatives = negatives_of(home, [("q0", "p10"), ("q0", "p11")], **scores)
    positive = {"query_id": ["q0"], "passage_id": ["p0"], "teacher_score": pa.array([2.0], pa.float32())}
    pq.write_table(pa.table(positive), negatives.path / POSITIVES)
    assert [row["label"] for row in lines(write_training_files("triplets", snapshot, negatives, tmp_path / "a"))] == [
        1.75,
        3.0,
    ]
    assert lines(write_training_files("n-tuples", snapshot, negatives, tmp_path / "b"))[0]["label"] == [1.75, 3.0]
    passages = lines(write_training_files("tevatron", snapshot, negatives, tmp_path / "c"))[0]
    assert passages["positive_passages"][0]["score"] == 2.0


def test_only_an_earlier_export_is_replaced(world, tmp_path):
    _, snapshot, negatives = world
    (tmp_path / "mine").mkdir()
    with pytest.raises(NightshiftError, match="already exists"):
        write_training_files("triplets", snapshot, negatives, tmp_path / "mine", force=True)
    first = write_training_files("triplets", snapshot, negatives, tmp_path / "out")
    with pytest.raises(NightshiftError, match="--force"):
        write_training_files("n-tuples", snapshot, negatives, first)
    assert "negative_3" in lines(write_training_files("n-tuples", snapshot, negatives, first, force=True))[0]


def test_our_reader_reads_an_export_back(world, tmp_path):
    _, snapshot, negatives = world
    for form in ("tevatron", "triplets"):
        folder = write_training_files(form, snapshot, negatives, tmp_path / form)
        settings = small_settings(tmp_path / f"home-{form}", "unused")
        source = {"format": "tevatron", "path": folder, "min_lift": 0, "max_refused": 1.0}
        settings = settings.model_copy(update={"data": type(settings.data)(**source)})
        _, again = ingest(settings)
        assert again.queries == 4


@pytest.mark.parametrize("form", ["triplets", "n-tuples", "sentence-transformers"])
def test_sentence_transformers_trains_on_the_export_as_it_is(world, tmp_path, tiny_model, form):
    from datasets import load_dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    _, snapshot, negatives = world
    folder = write_training_files(form, snapshot, negatives, tmp_path / form)
    kind, files = ("parquet", "data/*.parquet") if form == "sentence-transformers" else ("json", "train.jsonl")
    dataset = load_dataset(kind, data_files=str(folder / files), split="train", cache_dir=str(tmp_path / "cache"))
    model = SentenceTransformer(str(tiny_model), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[]
    )
    trainer = SentenceTransformerTrainer(model, arguments, dataset, loss=MultipleNegativesRankingLoss(model))
    assert trainer.train().global_step == 2


def test_the_command_mines_without_training(tmp_path, tiny_model, collection):
    home = tmp_path / "var"
    environment = {
        "NIGHTSHIFT_HOME": str(home),
        "NIGHTSHIFT_DATA__FORMAT": "beir",
        "NIGHTSHIFT_DATA__PATH": str(collection()),
        "NIGHTSHIFT_ENCODER__MODEL": str(tiny_model),
        "NIGHTSHIFT_MINING__HEAP_MB": "256",
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
    }
    to = tmp_path / "out"
    result = CliRunner().invoke(app, ["mine", "--format", "triplets", "--to", str(to)], env=environment)
    assert result.exit_code == 0, result.output
    assert set(lines(to)[0]) == {"anchor", "positive", "negative"}
    assert not (home / "releases").exists()
    assert len(list((home / "encoders").glob("*/manifest.json"))) == 1  # the base model
