"""Forgetting passages and queries of a home with two releases."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from file_search import files_with
from forget_world import PASSAGES, QUERIES, build_home, forgotten_marks, settings_of
from marked_home import marks_of
from milvus_servers import free_port, wait_for
from release_fixtures import server
from release_world import as_text
from s3_server import s3_server
from waiting import wait_until

from tasks.core.base.artifact_store import attach, keep, open_store
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import exclusive, load
from tasks.core.base.object_store import ObjectStore
from tasks.core.base.receipts import Embeddings, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.forget.forget import forget, plan_forget
from tasks.core.forget.plan import read_pending
from tasks.core.release.history import known_releases
from tasks.core.release.milvus.collection import connect
from tasks.core.release.pins import pin, unpin
from tasks.core.release.publish import list_releases, serving
from tasks.core.release.retention import remove_artifact
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.named_releases import open_release
from tasks.core.search.searcher import Searcher
from tasks.core.text.tombstones import add_tombstones, read_tombstones

SEARCHES = ["the silent river", "a golden engine near the market", "story number 101", "narrow harbour"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    home = tmp_path_factory.mktemp("forget") / "home"
    build_home(home, tiny_model)
    return home


@pytest.fixture
def settings(world: Path, tmp_path: Path) -> Settings:
    shutil.copytree(world, tmp_path / "home")
    return settings_of(tmp_path / "home")


def answers(settings: Settings, k: int = 10) -> list[list[tuple[str, str]]]:
    with Searcher.open(settings, load_encoder) as searcher:
        return [[(hit.passage_id, hit.text) for hit in answer.hits] for answer in searcher.search(SEARCHES, k)]


def without(results: list[list[tuple[str, str]]], k: int) -> list[list[tuple[str, str]]]:
    return [[hit for hit in hits if hit[0] not in PASSAGES][:k] for hits in results]


def test_no_file_has_a_forgotten_text_and_other_answers_stay(settings: Settings) -> None:
    home = settings.home
    before, others = answers(settings, 20), {mark for n in (20, 40) for mark in marks_of(f"q{n}")}
    shown = files_with(home, forgotten_marks())
    folders = {name.partition("/")[0] for name in shown}
    assert folders >= {"snapshots", "milvus", "reports", "shadow", "prefect", "drift", "history.parquet"}
    other_files = files_with(home, others)

    receipt = forget(settings, PASSAGES, QUERIES)
    assert files_with(home, forgotten_marks()) == {}
    assert files_with(home, others).keys() & {"prefect/prefect.db", "prefect/worker.log"} == (
        other_files.keys() & {"prefect/prefect.db", "prefect/worker.log"}
    )
    assert answers(settings, 16) == without(before, 16)
    assert receipt.embedded == 0
    release, _ = serving(settings)
    assert release is not None
    assert release.release == receipt.serving
    snapshot = load(home, Snapshot, release.snapshot)
    assert (snapshot.rows, snapshot.queries) == (81 - len(PASSAGES), 60 - len(QUERIES))
    assert load(home, Embeddings, release.embeddings).rows == snapshot.rows
    dropped = {entry.release for entry in list_releases(settings) if entry.pruned}
    assert dropped == {*receipt.plan.drop, *receipt.plan.rebuild}
    assert len(dropped) == 2
    stored = json.dumps(json.loads(next((home / "forgotten" / "receipts").iterdir()).read_bytes()))
    assert not any(f'"{name}"' in stored for name in [*PASSAGES, *QUERIES])
    assert read_pending(home) is None
    assert not plan_forget(settings, PASSAGES, QUERIES).artifacts
    judged = (home / "feedback" / "judgments.jsonl").read_text()
    assert "x102" in judged
    assert "x100" not in judged


def test_a_dry_run_changes_nothing(settings: Settings) -> None:
    serving(settings)
    before = {path: path.stat().st_mtime_ns for path in settings.home.rglob("*.parquet")}
    plan = plan_forget(settings, PASSAGES, [*QUERIES, "nobody"])
    assert {path: path.stat().st_mtime_ns for path in settings.home.rglob("*.parquet")} == before
    assert (len(plan.passages), len(plan.queries), plan.unknown) == (4, 3, 1)
    assert (len(plan.rebuild), len(plan.drop)) == (1, 1)
    assert "reports/2026-01-01T000000Z.html" in plan.files
    assert not read_tombstones(settings.home)


def test_searchers_leave_forgotten_passages_out_before_anything_is_rebuilt(settings: Settings) -> None:
    with Searcher.open(settings, load_encoder) as searcher:
        before = [[hit.passage_id for hit in answer.hits] for answer in searcher.search(SEARCHES, 30)]
        gone = [hits[0] for hits in before]
        add_tombstones(settings.home, gone, [], [])
        for counted in (False, True):
            results = searcher.search(SEARCHES, 10)
            expected = [[name for name in hits if name not in gone][:10] for hits in before]
            assert [[hit.passage_id for hit in answer.hits] for answer in results] == expected, counted
            assert [hit.rank for hit in results[0].hits] == list(range(1, 11))
            searcher.refresh()  # counts the forgotten passages


def test_a_pin_and_a_running_night_are_refused_with_the_steps_to_do(settings: Settings) -> None:
    first = list_releases(settings)[-1].release
    pin(settings, first)
    assert plan_forget(settings, PASSAGES, []).pinned == (first,)
    with pytest.raises(
        NightshiftError, match=f"releases unpin {first}(.|\n)*Left to do: publish(.|\n)*remove artifacts"
    ):
        forget(settings, PASSAGES, [])
    unpin(settings.home, first)
    with exclusive(settings.home / "night.lock"), pytest.raises(NightshiftError, match="a night runs"):
        forget(settings, [], [])
    assert all(hit[0] not in PASSAGES for hits in answers(settings) for hit in hits)
    receipt = forget(settings, [], [])
    assert (len(receipt.plan.passages), receipt.plan.pinned) == (len(PASSAGES), ())
    marks = {mark for name in PASSAGES for version in (1, 2) for mark in marks_of(name, version)}
    assert files_with(settings.home, marks) == {}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server("forget") as options:
        yield options


@pytest.mark.parametrize("lacks", [False, True], ids=["artifacts in the home", "artifacts only in the store"])
def test_interrupted_uploads_are_removed_from_the_store(
    settings: Settings, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: bool
) -> None:
    home = settings.home
    attach(home, f"s3://forget/{uuid.uuid4().hex}?{s3}", tries=1)
    release, _ = serving(settings)
    assert release is not None
    encoder = home / "encoders" / release.encoder
    keep(encoder)
    store = open_store(home)
    assert store is not None
    finished = set(store.objects())
    interrupted = f"encoders/{encoder.name}/{'0' * 32}/weights"
    store.write(interrupted, b"")
    folders = [folder for shelf in home.iterdir() for folder in shelf.glob("[0-9a-f]*") if folder.is_dir()]
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "write", interrupt)  # all files of an artifact are uploaded, but not its list
        for folder in (folder for folder in folders if folder.parent.name not in ("encoders", "readers")):
            with pytest.raises(KeyboardInterrupt):
                keep(folder)
    assert {name.partition("/")[0] for name in files_with(download(store, tmp_path / "before"), forgotten_marks())} == {
        "snapshots"
    }
    if lacks:
        shelves = {"snapshots": release.snapshot, "embeddings": release.embeddings}
        first, vectors = (
            next(path for path in (home / shelf).glob("[0-9a-f]*") if path.name != serves)
            for shelf, serves in shelves.items()
        )
        table = next(name for name in store.objects() if first.name in name and name.endswith("queries.parquet"))
        store.write(table, (first / "queries.parquet").read_bytes()[:100])
        remove_artifact(first)
        remove_artifact(vectors)
        monkeypatch.setattr("tasks.core.forget.store.A_DAY", timedelta(0))

    receipt = forget(settings, PASSAGES, QUERIES)
    assert files_with(download(store, tmp_path / "after"), forgotten_marks()) == {}
    left = set(store.objects())
    assert finished <= left
    assert (interrupted in left) == (not lacks)  # a young upload may be in progress in another home
    removed = {folder.relative_to(home).as_posix() for folder in folders if not folder.exists()}
    assert {name.partition("/")[0] for name in receipt.plan.stored} >= {"snapshots", "embeddings", "tokens"}
    assert not {"/".join(name.split("/")[:2]) for name in left} & removed


def download(store: ObjectStore, folder: Path) -> Path:
    for name in store.objects():
        store.get(name, folder / name)
    return folder


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_rows_with_the_text_of_a_forgotten_row_are_forgotten_too(settings: Settings) -> None:
    tombstones = read_tombstones(settings.home).plus([], [], ["A  Text\nwith CASE"])
    assert tombstones.match_text("a text with case")
    assert not tombstones.match_text("another text")
    assert not read_tombstones(settings.home).match_text("a text with case")


def test_a_searcher_switches_and_a_process_that_stays_is_reported(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = settings_of(settings.home, notice_seconds=0.1)
    left = r"a process still searches (.|\n)*Left to do: remove collections; remove artifacts"
    monkeypatch.setattr("tasks.core.forget.collections.PATIENCE", 0.5)
    with Searcher.open(following, load_encoder) as searcher, open_release(settings, "serving", load_encoder) as staying:
        with pytest.raises(NightshiftError, match=left):
            forget(following, PASSAGES, QUERIES)
        wait_until(lambda: searcher.release != staying.release, "the searcher follows the pointer", 60, pause=0.05)
        hits = [hit.passage_id for answer in staying.search(SEARCHES, 10) for hit in answer.hits]
        assert len(hits) == 10 * len(SEARCHES)
        assert not set(hits) & set(PASSAGES)
    monkeypatch.setattr("tasks.core.forget.collections.PATIENCE", 60)
    forget(following, [], [])
    assert files_with(settings.home, forgotten_marks()) == {}


@pytest.mark.slow
def test_a_service_in_its_own_process_stops_returning_the_passages(settings: Settings) -> None:
    following, port = settings_of(settings.home, notice_seconds=0.5), free_port()

    def search(k: int = 10) -> list[tuple[str, list[str]]]:
        body = json.dumps({"queries": SEARCHES, "k": k}).encode()
        request = urllib.request.Request(f"{address}/search", body, {"content-type": "application/json"})
        answer = json.load(urllib.request.urlopen(request, timeout=60))
        return [(answer["release"], [hit["passage_id"] for hit in each["hits"]]) for each in answer["answers"]]

    fixtures = str(Path(__file__).parents[1] / "fixtures")
    with subprocess.Popen([sys.executable, "-c", SERVES, fixtures, as_text(following), str(port)]) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(lambda: urllib.request.urlopen(f"{address}/healthz", timeout=5), process, 120)
            before = search(30)
            gone = {hits[0] for _, hits in before}
            others = [(release, [hit for hit in hits if hit not in gone][:10]) for release, hits in before]
            add_tombstones(settings.home, gone, [], [])  # as `forget` begins
            assert search() == others
            receipt = forget(following, gone, QUERIES)  # waits until the service has closed the old collection
            assert search() == [(receipt.serving, hits) for _, hits in others]
        finally:
            process.kill()


SERVES = """
import sys
sys.path.insert(0, sys.argv[1])
from release_world import settings_from
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.search.http import serve

serve(settings_from(sys.argv[2]), "127.0.0.1", int(sys.argv[3]), load_encoder)
"""


@pytest.mark.parametrize("kind", ["lite", pytest.param("server", marks=pytest.mark.slow)])
def test_collections_of_a_server_are_replaced_and_removed(tmp_path: Path, tiny_model: Path, kind: str) -> None:
    milvus = {"uri": server(kind), "alias": f"t{uuid.uuid4().hex[:12]}"}
    build_home(tmp_path / "home", tiny_model, **milvus)
    settings = settings_of(tmp_path / "home", **milvus)
    client = connect(milvus["uri"])
    old = {generation.collection for generation in known_releases(settings)}
    assert old <= {*client.list_collections()}
    before = answers(settings, 20)
    receipt = forget(settings, PASSAGES, QUERIES)
    assert answers(settings, 16) == without(before, 16)
    release, _ = serving(settings)
    assert release is not None
    assert release.release == receipt.serving
    assert open_publisher(settings.home, settings.milvus).collections() == {release.collection}
    assert old.isdisjoint(client.list_collections())
    rows = client.query(release.collection, filter='passage_id != ""', output_fields=["title", "text"], limit=1000)
    shown = "\n".join(f"{row['title']} {row['text']}" for row in rows)
    assert marks_of("x102")[1] in shown
    assert not any(mark in shown for mark in forgotten_marks())
    assert files_with(settings.home, forgotten_marks()) == {}
