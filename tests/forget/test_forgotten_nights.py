"""Forget fifty passages and twenty queries after three nights with releases, an object store, quarantine, and logs.

NIGHTSHIFT_TEST_KILLS sets the number of kills.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import killed_forget
import marked_home
import numpy as np
import pyarrow as pa
import pytest
from chaos_night import Nursery, lines_of
from file_search import files_with
from killed_forget import STEPS, Plan, moments_of, step_of
from marked_home import FORGOTTEN_PASSAGES, FORGOTTEN_QUERIES, marks_of, query
from pyarrow import fs
from release_world import small
from s3_server import CREDENTIALS, s3_server
from warm_commands import run_command

from tasks.core.base.files import load, receipts_newest_first
from tasks.core.base.receipts import Embeddings, Encoder, Index, Snapshot, Tokens
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.evaluate import read_run
from tasks.core.release.publish import list_releases, serving
from tasks.core.retrieval.bm25 import search_bm25
from tasks.core.search.searcher import Searcher

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("NIGHTSHIFT_TEST_KILLS", "20"))
SEED = int(os.environ.get("NIGHTSHIFT_TEST_SEED", "8"))
MARKS = {
    *(mark for name in [*FORGOTTEN_PASSAGES, *FORGOTTEN_QUERIES] for mark in marks_of(name)),
    *marks_of("x110", 2),  # changed in the third night
    marks_of("x100", 9)[1],  # of a refused row
}
OTHERS = [f"q{n}" for n in (0, 14, 20, 30, 48, 59)]  # queries that stay
SETTINGS = {
    "NIGHTSHIFT_DATA__FORMAT": "beir",
    "NIGHTSHIFT_DATA__MAX_REFUSED": "0.2",
    "NIGHTSHIFT_ENCODER__PASSAGE_TOKENS": "48",
    "NIGHTSHIFT_MINING__HEAP_MB": "256",
    "NIGHTSHIFT_TRAINING__EPOCHS": "4",
    "NIGHTSHIFT_TRAINING__BATCH_SIZE": "12",
    "NIGHTSHIFT_TRAINING__LEARNING_RATE": "0.003",
    "NIGHTSHIFT_GATE__BM25_FLOOR": "false",
    "NIGHTSHIFT_GATE__MARGIN": "0.9",
    "NIGHTSHIFT_GATE__MIN_QUERIES": "10",
    "NIGHTSHIFT_MILVUS__BATCH_ROWS": "20",
}


class Nights(NamedTuple):
    """A home after three nights."""

    folder: Path
    options: str  # of addresses in the S3 server
    environment: dict[str, str]

    def command(self, home: Path, *arguments: str, **more: str) -> str:
        """Run a command on a home; return its standard output."""
        own = {"NIGHTSHIFT_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), **more}
        environment = {**self.environment, "NIGHTSHIFT_STORE__URL": self.store(home), **own}
        done = run_command(environment, *arguments, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def store(self, home: Path) -> str:
        return f"s3://nights/{home.name}?{self.options}"

    def copy(self, name: str) -> Path:
        """Copy the home and its store."""
        home, files = self.folder / name, fs.FileSystem.from_uri(self.store(self.folder))[0]
        shutil.copytree(self.folder / "home", home)
        fs.copy_files("nights/home", f"nights/{name}", source_filesystem=files, destination_filesystem=files)
        (home / "store.json").write_text(json.dumps({"url": self.store(home), "tries": 2}))
        return home

    def download_store(self, home: Path) -> Path:
        """Return a folder with all objects of the store of a home."""
        files, target = fs.FileSystem.from_uri(self.store(home))[0], self.folder / f"store-{home.name}"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        fs.copy_files(
            f"nights/{home.name}", str(target), source_filesystem=files, destination_filesystem=fs.LocalFileSystem()
        )
        return target


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Nights]:
    folder = tmp_path_factory.mktemp("nights")
    home, source = folder / "home", folder / "source"
    (home / "prefect").mkdir(parents=True)
    own = {"NIGHTSHIFT_DATA__PATH": str(source), "NIGHTSHIFT_ENCODER__MODEL": str(tiny_model)}
    environment = {**os.environ, **SETTINGS, **own}
    environment.pop("PREFECT_API_URL", None)
    with s3_server("nights") as options:
        world = Nights(folder, options, {**environment, **CREDENTIALS})
        for night in (1, 2, 3):
            marked_home.write_night(source, night)
            printed = world.command(home, "run", NIGHTSHIFT_TRAINING__SEED="3" if night == 3 else "0")
            assert printed.startswith(f"Promoted: release r000{night}-"), printed
        add_logs(home)
        yield world


def add_logs(home: Path) -> None:
    """Write what a search service logs: shadow searches and its output."""
    shown = [query(n)["text"] for n in (1, 20)]
    (home / "shadow").mkdir()
    lines = [json.dumps({"query": text, "k": 10, "served": ["x100"], "shadowed": ["p1"]}) for text in shown]
    release = json.loads((home / "serving.json").read_bytes())["release"]
    (home / "shadow" / f"{release}-2026-11-29.jsonl").write_text("\n".join(lines) + "\n")
    (home / "prefect" / "worker.log").write_text("".join(f"02:00 | query: {text}\n" for text in shown))


def answers(home: Path, k: int) -> list[list[tuple[Any, ...]]]:
    """Search the queries that stay, in all modes; return id, title, text, and rounded score of each hit."""
    texts = [query(int(name[1:]))["text"] for name in OTHERS]
    with Searcher.open(small(home), load_encoder) as searcher:
        results = [searcher.search(texts, k, mode=mode) for mode in ("dense", "lexical")]
    return [
        [(hit.passage_id, hit.title, hit.text, round(hit.score, 4)) for hit in answer.hits]
        for mode in results
        for answer in mode
    ]


def lucene_hits(home: Path) -> set[str]:
    """Return the passages that a Lucene index of the home returns for the marks of forgotten passages."""
    table = pa.table({"query_id": [f"m{n}" for n in range(len(MARKS))], "text": sorted(MARKS)})
    return {
        row["passage_id"]
        for index in receipts_newest_first(home, Index)
        for row in read_run(search_bm25(home, index, table, 5, MiningSettings(heap_mb=256))).to_pylist()
    }


def token_texts(home: Path, model: Path) -> str:
    """Return all texts that the token caches of a home contain, without spaces."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = [
        np.fromfile(file, np.uint16 if tokens.kind == "uint16" else np.int32)
        for tokens in receipts_newest_first(home, Tokens)
        for file in sorted(tokens.path.glob("*.ids"))
    ]
    return "".join(tokenizer.decode(block.tolist()) for block in ids)


def test_no_file_of_home_and_store_has_a_forgotten_text(nights: Nights, tiny_model: Path) -> None:
    home = nights.copy("forgotten")
    before = answers(home, 60)
    files, stored = files_with(home, MARKS), files_with(nights.download_store(home), MARKS)
    assert {mark for marks in files.values() for mark in marks} == MARKS  # the search finds every text
    folders = {name.partition("/")[0] for name in files}
    assert folders >= {
        "snapshots",
        "milvus",
        "postings",
        "references",
        "negatives",
        "ingests",
        "reports",
        "prefect",
        "shadow",
    }
    assert {name.partition("/")[0] for name in stored} >= {"snapshots", "postings", "negatives", "ingests"}
    assert lucene_hits(home) & set(FORGOTTEN_PASSAGES)
    assert marks_of("x100")[0] in token_texts(home, tiny_model)

    request = nights.folder / "request.jsonl"
    lines = [{"passage_id": name} for name in FORGOTTEN_PASSAGES] + [{"query_id": name} for name in FORGOTTEN_QUERIES]
    request.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = json.loads(nights.command(home, "forget", "--file", str(request), "--dry-run", "--json"))
    assert files_with(home, MARKS).keys() == files.keys()
    receipt = json.loads(nights.command(home, "forget", "--file", str(request), "--json"))
    assert without_ids(receipt["plan"]) == without_ids(plan)
    assert (len(plan["passages"]), len(plan["queries"]), receipt["embedded"]) == (50, 20, 0)
    assert (len(plan["rebuild"]), len(plan["drop"]), len(plan["encoders"])) == (1, 2, 2)
    check_forgotten(nights, home)
    assert not any(mark in token_texts(home, tiny_model) for mark in MARKS)
    gone = set(FORGOTTEN_PASSAGES)
    assert (
        answers(home, 10)[: len(OTHERS)]
        == [[hit for hit in hits if hit[0] not in gone][:10] for hits in before][: len(OTHERS)]
    )

    printed = nights.command(home, "run", NIGHTSHIFT_TRAINING__SEED="3")  # the source still has all rows
    assert printed.startswith("Skipped: "), printed
    changed = [marked_home.passage(0) | {"_id": "x999"}, {"_id": "x998", "title": "", "text": "a new silent river"}]
    source = nights.folder / "source" / "corpus.jsonl"
    with source.open("a") as file:  # a copy of a forgotten passage under another id, and a new passage
        file.writelines(json.dumps(row) + "\n" for row in changed)
    printed = nights.command(home, "run", NIGHTSHIFT_TRAINING__SEED="3")
    assert printed.startswith("Promoted: "), printed
    check_forgotten(nights, home)
    assert not receipts_newest_first(home, Index)  # a refresh builds none


def without_ids(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a plan without the digests of ids: a dry run has a key of its own."""
    return {name: value for name, value in plan.items() if name not in ("passages", "queries")}


def check_forgotten(nights: Nights, home: Path) -> None:
    assert files_with(home, MARKS) == {}
    assert files_with(nights.download_store(home), MARKS) == {}


def state_of(nights: Nights, home: Path) -> dict[str, Any]:
    """Return what must be equal after each run: files whose names have no number of a release, answers, and plan."""
    release, _ = serving(small(home))
    assert release is not None
    receipt = min((home / "forgotten" / "receipts").iterdir())  # a second one if it was killed after its end
    fields = json.loads(receipt.read_bytes())
    plan = {name: value for name, value in without_ids(fields["plan"]).items() if name != "collections"}
    hidden = ("/.", "locks/", "forgotten/", "readers/", "releases/", "ledger", "prefect.db-", "milvus/")
    names = (str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    stored = (str(path.relative_to(nights.folder)) for path in nights.download_store(home).rglob("*.json"))
    return {
        "files": sorted(name for name in names if not any(part in f"/{name}" for part in hidden)),
        "stored": sorted(re.sub(r"^store-[^/]*|/[0-9a-f]{32}/.*", "", name) for name in stored),
        "collections": len(list((home / "milvus").iterdir())),
        "releases": sorted((entry.release, entry.pruned) for entry in list_releases(small(home)))[:3],
        "parts": [load(home, kind, digest).digest for kind, digest in (
            (Encoder, release.encoder), (Embeddings, release.embeddings), (Snapshot, release.snapshot))],
        "answers": answers(home, 10),
        "plan": plan,
    }  # fmt: skip


def test_forgetting_that_is_killed_anywhere_ends_the_same(nights: Nights, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, Nursery_of_forget(patch) as nursery:
        home = nights.copy("undisturbed")
        plan = Plan(str(home), FORGOTTEN_PASSAGES, FORGOTTEN_QUERIES, str(nights.folder / "undisturbed.log"))
        assert nursery.live(plan) == 0, Path(plan.log).read_text()
        check_forgotten(nights, home)
        wanted = state_of(nights, home)
        moments, steps = moments_of([text for _, text in lines_of(plan.log)], KILLS, SEED), []
        for number, (line, delay) in enumerate(moments):
            home, killed = kill(nights, nursery, plan, number, line, delay)
            log = Path(killed.log)
            steps.append(step_of([text for _, text in lines_of(log)]))
            resumed = killed._replace(line=None, passages=[] if number % 2 and plans(home) else FORGOTTEN_PASSAGES)
            assert nursery.live(resumed) == 0, log.read_text()
            check_forgotten(nights, home)
            assert state_of(nights, home) == wanted, log.read_text()
            shutil.rmtree(home)
    with capsys.disabled():
        print(f"\n{KILLS} kills, by step: { {step: steps.count(step) for step in dict.fromkeys(steps)} }")
    assert len(steps) == KILLS
    assert len(set(steps)) >= min(KILLS, len(STEPS))


def kill(nights: Nights, nursery: Nursery, plan: Plan, number: int, line: int, delay: float) -> tuple[Path, Plan]:
    """Kill a run on a copy of the home; earlier, on a new copy, if the run was over before. Return home and plan."""
    while True:
        home, log = nights.copy(f"killed{number}-{line}"), nights.folder / f"{number}.log"
        killed = plan._replace(home=str(home), log=str(log), line=line, delay=delay)
        code = nursery.live(killed)
        if code == -signal.SIGKILL:
            return home, killed
        assert code == 0, log.read_text()
        assert line > 0, log.read_text()
        shutil.rmtree(home)
        log.unlink()
        line, delay = line * 3 // 4, 0.0


def plans(home: Path) -> bool:
    """Return whether a killed run had written its tombstones and plan."""
    file = home / "forgotten" / "pending.json"
    return file.exists() and bool(json.loads(file.read_bytes())["tombstones"])


def Nursery_of_forget(patch: pytest.MonkeyPatch) -> Nursery:
    for name, value in CREDENTIALS.items():
        patch.setenv(name, value)
    return Nursery(killed_forget.__file__)
