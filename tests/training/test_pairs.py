from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of
from small_training import negatives_of, small_settings

from tasks.core.base.errors import BadInput
from tasks.core.base.mining_checks import TeacherCheck
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, start_from
from tasks.core.snapshot.reader import QRELS, qrels
from tasks.core.training.pairs import TrainingPairs, check_negatives, load_pairs, without_refused_teacher

STORY = "the story of a golden violin seen near one castle and one river and one market"


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> DualEncoder:
    folder = tmp_path / "encoder"
    folder.mkdir()
    settings = small_settings(tmp_path, tiny_model)
    return start_from(tiny_model, EncoderSpec.of(settings.encoder, "fp32"), folder)


def now(home: Path) -> Snapshot:
    """Two queries with equal texts, a copy and a near duplicate of their passage, and a held-out query."""
    texts = {"a": STORY, "copy": STORY, "near": STORY + " seen", "b": "a river", "c": "a castle", "d": "a falcon"}
    queries = {"q1": "golden violin", "q2": "golden violin", "q3": "river", "q4": "falcon"}
    pairs = [("q1", "a", "train"), ("q2", "b", "test"), ("q3", "b", "train"), ("q3", "c", "dev"), ("q4", "d", "test")]
    return snapshot_of(home, texts, queries, pairs)


def text(data: TrainingPairs, encoder: DualEncoder, row: int) -> str:
    words: str = encoder.passage.tokenizer.decode(data.passage_tokens[row], skip_special_tokens=True)
    return words


def test_equal_texts_share_a_row(encoder: DualEncoder, tmp_path: Path) -> None:
    mined = negatives_of(tmp_path, [("q1", "near"), ("q1", "copy"), ("q1", "d"), ("q3", "d")])
    data = load_pairs(now(tmp_path), mined, encoder, TrainingSettings())
    assert len(data.query_tokens) == 2  # "golden violin" and "river": q4 is not a training query
    assert data.pairs.tolist() == [[0, 0], [1, data.pairs[1, 1]]]
    assert text(data, encoder, int(data.pairs[1, 1])) == "a river"
    known = {text(data, encoder, row) for row in range(len(data.cluster)) if data.cluster[row] in data.known[0]}
    assert known == {STORY, STORY + " seen", "a river"}  # b was judged in another split, for the other id
    assert [text(data, encoder, row) for row in data.positives[1].tolist()] == ["a river"]  # c is held out
    assert len(data.negatives[0]) == 3


def older(home: Path) -> Snapshot:
    texts = {"a": STORY, "d": "a falcon", "e": "an orchid", "f": "a lantern near a harbour"}
    queries = {"q1": "golden violin", "x4": "falcon", "x5": "orchid", "x6": "lantern"}
    pairs = [("q1", "a", "train"), ("q1", "e", "train"), ("x4", "d", "train"), ("x5", "e", "train"), ("x6", "f", "dev")]
    return snapshot_of(home, texts, queries, pairs)


def test_replay_adds_only_older_training_pairs_that_are_not_held_out(encoder: DualEncoder, tmp_path: Path) -> None:
    mined = negatives_of(tmp_path, [("q1", "d")])
    data = load_pairs(now(tmp_path), mined, encoder, TrainingSettings(replay=0.5), older(tmp_path))
    replayed = [text(data, encoder, row) for row in data.pairs[data.fresh :, 1].tolist()]
    assert data.fresh == 2
    assert replayed == ["an orchid", "an orchid"]  # of "golden violin" and of "orchid"; "falcon" is held out now
    known = {text(data, encoder, row) for row in range(len(data.cluster)) if data.cluster[row] in data.known[0]}
    assert "an orchid" in known
    without = load_pairs(now(tmp_path), mined, encoder, TrainingSettings(), older(tmp_path))
    assert len(without.pairs) == without.fresh == 2


def test_long_passages_are_cut_for_training_but_keep_their_last_token(encoder: DualEncoder, tmp_path: Path) -> None:
    mined = negatives_of(tmp_path, [("q1", "d")])
    whole = load_pairs(now(tmp_path), mined, encoder, TrainingSettings(passage_tokens=0)).passage_tokens
    cut = load_pairs(now(tmp_path), mined, encoder, TrainingSettings(passage_tokens=5)).passage_tokens
    longest = max(range(len(whole)), key=lambda row: len(whole[row]))
    assert len(whole[longest]) > 5
    assert all(
        cut[row] == (ids if len(ids) <= 5 else ids[:4] + ids[-1:])
        for row, ids in enumerate(whole.take(range(len(whole))))
    )


def test_teacher_scores_are_read_and_required_by_distillation(encoder: DualEncoder, tmp_path: Path) -> None:
    settings = TrainingSettings(loss="margin_mse", teacher_temperature=2.0)
    with pytest.raises(BadInput, match="teacher_score"):
        load_pairs(now(tmp_path), negatives_of(tmp_path, [("q1", "d")]), encoder, settings)
    mined = negatives_of(tmp_path, [("q1", "d"), ("q3", "d")], teacher_score=[1.0, -3.0])
    own = {"query_id": ["q1"], "passage_id": ["a"], "teacher_score": [8.0]}
    pq.write_table(pa.table(own), mined.path / "positives.parquet")
    data = load_pairs(now(tmp_path), mined, encoder, settings)
    rows, scores = data.teacher[0]
    assert {text(data, encoder, row): score for row, score in zip(rows.tolist(), scores.tolist(), strict=True)} == {
        STORY: 4.0,
        "a falcon": 0.5,
    }
    assert data.teacher[1][1].tolist() == [-1.5]


@pytest.mark.parametrize("accuracy", [0.9, 0.6], ids=["better", "worse"])
def test_a_checked_teacher_is_scaled_by_its_spread_and_a_refused_teacher_is_replaced_by_infonce(
    encoder: DualEncoder, tmp_path: Path, accuracy: float
) -> None:
    settings = TrainingSettings(loss="kl", teacher_temperature=0.5)
    mined = negatives_of(tmp_path, [("q1", "d")], teacher_score=[10.0])
    own = {"query_id": ["q1"], "passage_id": ["a"], "teacher_score": [30.0]}
    pq.write_table(pa.table(own), mined.path / "positives.parquet")
    check = TeacherCheck(
        teacher="t", split="dev", queries=1, pairs=1, accuracy=accuracy, encoder_accuracy=0.8, spread=20.0,
        encoder_spread=0.1,
    )  # fmt: skip
    checked = mined.model_copy(update={"teacher": check})
    used = without_refused_teacher(settings, checked)
    data = load_pairs(now(tmp_path), checked, encoder, used)
    if check.accepted:
        assert used == settings
        assert sorted(data.teacher[0][1].tolist()) == [4 * 10 / 20 / 0.5, 4 * 30 / 20 / 0.5]
        assert check.summary.endswith("Spread of scores: 20, of the encoder 0.1.")
    else:
        assert used == settings.model_copy(update={"loss": "infonce"})
        assert data.teacher == {}
        assert "training uses the loss infonce" in check.summary


def test_a_snapshot_without_a_training_pair_is_refused(encoder: DualEncoder, tmp_path: Path) -> None:
    snapshot = now(tmp_path)
    pq.write_table(qrels(snapshot, "test"), snapshot.path / QRELS)
    with pytest.raises(BadInput, match="no training pair"):
        load_pairs(snapshot, negatives_of(tmp_path, []), encoder, TrainingSettings())


def test_the_passage_of_a_query_is_masked_only_if_it_is_left_out(encoder: DualEncoder, tmp_path: Path) -> None:
    texts = {"a": "a golden violin", "b": "a river", "c": "a castle"}
    queries = {"a": "golden violin", "b": "river"}
    snapshot = snapshot_of(tmp_path, texts, queries, [("a", "b", "train"), ("b", "a", "train")])
    mined = negatives_of(tmp_path, [("a", "c")])
    for own in (False, True):
        data = load_pairs(snapshot, mined, encoder, TrainingSettings(), leave_out_self=own)
        known = {text(data, encoder, row) for row in range(len(data.cluster)) if data.cluster[row] in data.known[0]}
        assert known == {"a river"} | ({"a golden violin"} if own else set())
        assert [text(data, encoder, row) for row in data.positives[0].tolist()] == ["a river"]


def test_training_pairs_that_share_one_text_are_refused(
    encoder: DualEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    none, settings = negatives_of(tmp_path, []), TrainingSettings()
    copies = snapshot_of(
        tmp_path,
        {"a": STORY, "b": STORY},
        {"q1": "violin", "q2": "river"},
        [("q1", "a", "train"), ("q2", "b", "train")],
    )
    with pytest.raises(BadInput, match="the 1 passages of the training pairs are copies"):
        check_negatives(load_pairs(copies, none, encoder, settings), settings)
    check_negatives(load_pairs(copies, negatives_of(tmp_path, [("q1", "b")]), encoder, settings), settings)
    assert caplog.text == ""
    check_negatives(load_pairs(now(tmp_path), none, encoder, settings), settings)
    assert "No query has a mined negative" in caplog.text


def test_a_distillation_loss_without_a_mined_negative_is_refused(encoder: DualEncoder, tmp_path: Path) -> None:
    data = load_pairs(now(tmp_path), negatives_of(tmp_path, []), encoder, TrainingSettings())
    with pytest.raises(BadInput, match="no query has a mined negative"):
        check_negatives(data, TrainingSettings(loss="kl"))
    mined = load_pairs(now(tmp_path), negatives_of(tmp_path, [("q1", "d")]), encoder, TrainingSettings())
    with pytest.raises(BadInput, match="hard_negatives is 0"):
        check_negatives(mined, TrainingSettings(loss="margin_mse", hard_negatives=0))
    check_negatives(mined, TrainingSettings(loss="kl"))
    check_negatives(data, TrainingSettings(loss="kl", contrastive_share=0.5))  # logs the warning of other losses
