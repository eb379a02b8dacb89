"""Watching over days: windows from source and log, one state file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from traffic import NIGHT, add_passage, ask, look, unfamiliar, usual

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.decide import State
from tasks.core.drift.verdict import Work
from tasks.core.drift.watch import read_state, state_file, watch
from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot import reader as snapshots


def grow(settings: Settings, night: int) -> None:
    assert settings.data.path is not None
    source = Path(settings.data.path)
    with (source / "queries.jsonl").open("a") as queries, (source / "qrels/test.tsv").open("a") as qrels:
        for number, text in enumerate(usual(night)):
            queries.write(json.dumps({"_id": f"n{night}-{number}", "text": text}) + "\n")
            qrels.write(f"n{night}-{number}\tp{number}\t1\n")


def test_nothing_serves_so_everything_is_to_be_made(settings: Settings, snapshot: Snapshot) -> None:
    assert watch(settings, None, snapshot, "r", NIGHT).verdict is Work.RETRAIN


def test_queries_accumulate_until_they_are_a_window(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    ask(logged, *usual(0)[:12])
    first = look(logged, serving, snapshot, 0)
    assert (first.window, first.fresh, first.verdict) == (0, {"snapshot": 0, "log": 12}, Work.SKIP)
    ask(logged, *usual(0)[12:])
    second = look(logged, serving, snapshot, 0.1)
    assert (second.window, second.fresh["log"]) == (1, 30)
    assert {one.name: one.threshold for one in second.signals}["classifier_auc"] is None
    assert second.terms
    assert second.slices
    ask(logged, *usual(1))
    assert look(logged, serving, snapshot, 0.5).window == 1  # a window is a night
    assert look(logged, serving, snapshot, 1).window == 2


def test_queries_of_the_source_are_judged_once(settings: Settings, serving: Release) -> None:
    grow(settings, 0)
    grown = ingest(settings)[1]
    first = look(settings, serving, grown, 0)
    assert (first.window, first.fresh) == (1, {"snapshot": 30})
    assert "recall@10" in {one.name for one in first.signals}
    assert look(settings, serving, grown, 1).window == 1


def test_queries_go_on_being_seen_when_the_snapshot_that_had_the_last_ones_is_gone(
    settings: Settings, serving: Release
) -> None:
    grow(settings, 0)
    first = ingest(settings)[1]
    look(settings, serving, first, 0)
    grow(settings, 1)
    second = ingest(settings)[1]
    shutil.rmtree(first.path)
    assert look(settings, serving, second, 1).window == 1
    grow(settings, 2)
    third = look(settings, serving, ingest(settings)[1], 2)
    assert (third.window, third.fresh) == (2, {"snapshot": 30})


def test_confirmed_drift_triggers_once_and_is_held_by_the_cooldown(logged: Settings, serving: Release) -> None:
    said = []
    add_passage(logged)  # something to train on
    snapshot = ingest(logged)[1]
    for night in range(4):
        ask(logged, *unfamiliar(night))
        said.append(look(logged, serving, snapshot, night))
    assert [one.trigger for one in said] == [False, True, False, False]
    assert [one.verdict for one in said] == [Work.REFRESH, Work.RETRAIN, Work.REFRESH, Work.REFRESH]
    assert said[0].held == "first of 2 windows"
    assert "low score share" in said[1].cause
    assert said[3].held.startswith("cooldown until 2026-11-09")
    assert len(said[3].windows) == 4


def test_damaged_queries_are_suspect_and_never_retrain(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    for night in range(3):
        ask(logged, *(f"whree wsa hte brkoen riverr {number} {night} sene" for number in range(30)))
        found = look(logged, serving, snapshot, night)
        assert (found.verdict, found.trigger) == (Work.SUSPECT, False)
        assert "look at the feed" in found.cause


def test_a_promotion_begins_a_new_baseline(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    ask(logged, *usual(0))
    look(logged, serving, snapshot, 0)
    file = state_file(logged.home)
    before = read_state(file)
    other = serving.model_copy(update={"embeddings": _other_embeddings(logged, serving, snapshot)})
    ask(logged, *usual(1))
    look(logged, other, snapshot, 1)
    after = read_state(file)
    assert before.reference != after.reference
    assert (len(after.baseline.windows), after.number) == (1, 2)


def _other_embeddings(settings: Settings, serving: Release, snapshot: Snapshot) -> str:
    from tasks.core.embedding.shards import embed_shard, gather_shards

    encoder = load(settings.home, Encoder, serving.encoder)
    for rank in range(2):
        embed_shard(settings.home, encoder, snapshot, rank, 2)
    return gather_shards(settings.home, encoder, snapshot, 2).digest


def test_a_state_of_another_version_says_where_it_is_and_what_to_do(
    settings: Settings, serving: Release, snapshot: Snapshot
) -> None:
    file = state_file(settings.home)
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 99}')
    with pytest.raises(Mismatch, match=r"state\.json.*move it away"):
        look(settings, serving, snapshot, 0)


def test_a_damaged_state_is_set_aside_and_begun_again(
    logged: Settings, serving: Release, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    file = state_file(logged.home)
    ask(logged, *usual(0))
    assert look(logged, serving, snapshot, 0).window == 1
    whole = file.read_text()
    texts = ["", whole[:90], '{"version": 1, "other": 2}', "[]", "\udcff", whole.replace('"number": 1', '"number": 3')]
    for number, text in enumerate(texts):
        file.write_bytes(text.encode(errors="surrogateescape"))
        assert read_state(file) == State()
        assert len(list(file.parent.glob(".state.json.damaged-*"))) == number + 1
        assert "cooldown, and budget then start again" in caplog.text
        caplog.clear()
    file.write_text(json.dumps({name: one for name, one in json.loads(whole).items() if name != "digest"}))
    assert read_state(file).number == 1  # as an earlier version wrote it


def test_lost_vectors_of_the_serving_release_are_made_again(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    made = load(logged.home, Embeddings, serving.embeddings)
    as_made = logged.model_copy(update={"embedding": logged.embedding.model_copy(update={"shards": made.shards})})
    shard = min(made.path.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    ask(logged, *usual(0))
    assert look(as_made, serving, snapshot, 0).window == 1
    assert load(logged.home, Embeddings, serving.embeddings).digests == made.digests


def test_without_the_snapshot_of_the_serving_release_everything_is_done(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    newer = snapshot.model_copy(update={"digest": "0" * 20})
    (snapshot.path / "qrels.parquet").unlink()
    drift = look(logged, serving, newer, 0)
    assert drift.verdict is Work.RETRAIN
    assert f"snapshot {snapshot.digest} of release {serving.release} is lost" in drift.cause


def test_a_check_that_is_killed_has_happened_or_has_not(tmp_path: Path) -> None:
    """A process writes states as `watch` does and is killed again and again: the file is always a whole state."""
    file = state_file(tmp_path)
    code = (
        "import sys; from pathlib import Path; from tasks.core.drift.decide import State, Trigger;"
        "from tasks.core.base.files import exclusive, write_json; from datetime import datetime, UTC\n"
        "file = Path(sys.argv[1]); n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    with exclusive(file.with_suffix('.lock'), timeout=5):\n"
        "        many = tuple(Trigger(at=datetime.now(UTC), window=n) for _ in range(n % 300))\n"
        "        write_json(file, State(number=n, triggers=many).model_dump(mode='json'))\n"
        "    print(n, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for wait in (0.0, 0.003, 0.011):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True, env=environment
        )
        assert child.stdout is not None
        for _ in range(5):
            child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert read_state(file).number >= 5


def test_a_check_reads_no_passage_again(
    logged: Settings, serving: Release, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(logged, serving, snapshot, 0)
    monkeypatch.setattr(snapshots, "passages", None)
    ask(logged, *usual(0))
    assert look(logged, serving, snapshot, 1).window == 1
