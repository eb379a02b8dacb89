"""Drift checks over several days: windows from source and log, and the state file."""

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
from traffic import NIGHT, add_passage, check_drift, log_queries, unfamiliar, usual

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.decide import State
from tasks.core.drift.findings import Action
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


def test_without_a_serving_release_the_action_is_a_retrain(settings: Settings, snapshot: Snapshot) -> None:
    assert watch(settings, None, snapshot, "r", NIGHT).verdict is Action.RETRAIN


def test_queries_accumulate_until_a_window_is_full(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    log_queries(logged, *usual(0)[:12])
    first = check_drift(logged, serving, snapshot, 0)
    assert (first.window, first.fresh, first.verdict) == (0, {"snapshot": 0, "log": 12}, Action.SKIP)
    log_queries(logged, *usual(0)[12:])
    second = check_drift(logged, serving, snapshot, 0.1)
    assert (second.window, second.fresh["log"]) == (1, 30)
    assert {signal.name: signal.threshold for signal in second.signals}["classifier_auc"] is None
    assert second.terms
    assert second.slices
    log_queries(logged, *usual(1))
    assert check_drift(logged, serving, snapshot, 0.5).window == 1  # a window spans a night
    assert check_drift(logged, serving, snapshot, 1).window == 2


def test_queries_of_the_source_are_measured_once(settings: Settings, serving: Release) -> None:
    grow(settings, 0)
    grown = ingest(settings)[1]
    first = check_drift(settings, serving, grown, 0)
    assert (first.window, first.fresh) == (1, {"snapshot": 30})
    assert "recall@10" in {signal.name for signal in first.signals}
    assert check_drift(settings, serving, grown, 1).window == 1


def test_queries_are_measured_when_the_last_measured_snapshot_is_gone(settings: Settings, serving: Release) -> None:
    grow(settings, 0)
    first = ingest(settings)[1]
    check_drift(settings, serving, first, 0)
    grow(settings, 1)
    second = ingest(settings)[1]
    shutil.rmtree(first.path)
    assert check_drift(settings, serving, second, 1).window == 1
    grow(settings, 2)
    third = check_drift(settings, serving, ingest(settings)[1], 2)
    assert (third.window, third.fresh) == (2, {"snapshot": 30})


def test_confirmed_drift_triggers_once_until_the_cooldown_ends(logged: Settings, serving: Release) -> None:
    checks = []
    add_passage(logged)  # something to train on
    snapshot = ingest(logged)[1]
    for night in range(4):
        log_queries(logged, *unfamiliar(night))
        checks.append(check_drift(logged, serving, snapshot, night))
    assert [drift.trigger for drift in checks] == [False, True, False, False]
    assert [drift.verdict for drift in checks] == [Action.REFRESH, Action.RETRAIN, Action.REFRESH, Action.REFRESH]
    assert checks[0].held.startswith("evidence ")
    assert "low score share" in checks[1].cause
    assert checks[3].held.startswith("cooldown until 2026-11-09")
    assert len(checks[3].windows) == 4


def test_damaged_queries_are_suspect_and_never_retrain(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    for night in range(3):
        log_queries(logged, *(f"whree wsa hte brkoen riverr {number} {night} sene" for number in range(30)))
        drift = check_drift(logged, serving, snapshot, night)
        assert (drift.verdict, drift.trigger) == (Action.SUSPECT, False)
        assert "check the source of the queries" in drift.cause


def test_a_promotion_starts_a_new_baseline(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    log_queries(logged, *usual(0))
    check_drift(logged, serving, snapshot, 0)
    file = state_file(logged.home)
    before = read_state(file)
    other = serving.model_copy(update={"embeddings": _other_embeddings(logged, serving, snapshot)})
    log_queries(logged, *usual(1))
    check_drift(logged, other, snapshot, 1)
    after = read_state(file)
    assert before.reference != after.reference
    assert (len(after.baseline.windows), len(after.baseline.waiting), after.number) == (
        1,
        1,
        2,
    )  # window 1, scored again


def _other_embeddings(settings: Settings, serving: Release, snapshot: Snapshot) -> str:
    from tasks.core.embedding.shards import embed_shard, gather_shards

    encoder = load(settings.home, Encoder, serving.encoder)
    for rank in range(2):
        embed_shard(settings.home, encoder, snapshot, rank, 2)
    return gather_shards(settings.home, encoder, snapshot, 2).digest


def test_a_state_of_another_version_is_refused_with_path_and_next_step(
    settings: Settings, serving: Release, snapshot: Snapshot
) -> None:
    file = state_file(settings.home)
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 99}')
    with pytest.raises(Mismatch, match=r"state\.json.*move it away"):
        check_drift(settings, serving, snapshot, 0)


def test_a_state_without_evidence_keeps_its_triggers_and_its_position(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    """Check a state as version 1 wrote it."""
    file = state_file(logged.home)
    log_queries(logged, *usual(0))
    check_drift(logged, serving, snapshot, 0)
    fields = json.loads(file.read_text())
    for name in ("evidence", "digest"):
        del fields[name]
    for window in fields["windows"]:
        for name in ("unfamiliarity", "evidence", "line", "repeats"):
            del window[name]
    fields["baseline"] = {"start": 0.05, "queries": 0, "windows": [{"queries": 500, "low": 0.04}]}
    fields |= {"version": 1, "triggers": [{"at": "2026-10-31T02:00:00Z", "window": 1}]}
    file.write_text(json.dumps(fields))
    log_queries(logged, *usual(1))
    assert check_drift(logged, serving, snapshot, 1).fresh["log"] == 30
    state = read_state(file)
    assert (state.version, state.number, len(state.triggers), state.baseline.start) == (2, 2, 1, 0.05)


def test_a_log_that_is_delivered_again_does_not_count(
    logged: Settings, serving: Release, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    for night in range(5):
        log_queries(logged, *unfamiliar(0))
        drift = check_drift(logged, serving, snapshot, night)
    assert [window.repeats for window in drift.windows] == [0, 1, 2, 3, 4]
    assert "New queries repeat those of window 4" in caplog.text
    assert len({window.evidence for window in drift.windows}) == 1
    assert drift.verdict is Action.SKIP


def test_a_query_that_a_bot_repeats_counts_once(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    log_queries(logged, *usual(0), *["of of of engine violin"] * 5000)
    assert check_drift(logged, serving, snapshot, 0).windows[-1].queries == 31


def test_an_empty_log_is_no_window(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    drift = check_drift(logged, serving, snapshot, 0)
    assert (drift.window, drift.verdict, drift.fresh["log"]) == (0, Action.SKIP, 0)


def test_a_damaged_state_is_set_aside_and_reset(
    logged: Settings, serving: Release, snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    file = state_file(logged.home)
    log_queries(logged, *usual(0))
    assert check_drift(logged, serving, snapshot, 0).window == 1
    whole = file.read_text()
    texts = ["", whole[:90], '{"version": 1, "other": 2}', "[]", "\udcff", whole.replace('"number": 1', '"number": 3')]
    for number, text in enumerate(texts):
        file.write_bytes(text.encode(errors="surrogateescape"))
        assert read_state(file) == State()
        assert len(list(file.parent.glob(".state.json.damaged-*"))) == number + 1
        assert "cooldown, and budget then start again" in caplog.text
        caplog.clear()
    file.write_text(json.dumps({name: value for name, value in json.loads(whole).items() if name != "digest"}))
    assert read_state(file).number == 1  # an earlier version wrote no digest


def test_lost_vectors_of_the_serving_release_are_rebuilt(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    embeddings = load(logged.home, Embeddings, serving.embeddings)
    as_made = logged.model_copy(update={"embedding": logged.embedding.model_copy(update={"shards": embeddings.shards})})
    shard = min(embeddings.path.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    log_queries(logged, *usual(0))
    assert check_drift(as_made, serving, snapshot, 0).window == 1
    assert load(logged.home, Embeddings, serving.embeddings).digests == embeddings.digests


def test_without_the_snapshot_of_the_serving_release_the_action_is_a_retrain(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    newer = snapshot.model_copy(update={"digest": "0" * 20})
    (snapshot.path / "qrels.parquet").unlink()
    drift = check_drift(logged, serving, newer, 0)
    assert drift.verdict is Action.RETRAIN
    assert f"snapshot {snapshot.digest} of release {serving.release} is lost" in drift.cause


def test_a_killed_check_is_recorded_completely_or_not_at_all(tmp_path: Path) -> None:
    """Kill a process that writes states as `watch` does: the file always contains a complete state."""
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


def test_a_repeated_check_reads_no_passage(
    logged: Settings, serving: Release, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_drift(logged, serving, snapshot, 0)
    monkeypatch.setattr(snapshots, "passages", None)
    log_queries(logged, *usual(0))
    assert check_drift(logged, serving, snapshot, 1).window == 1
