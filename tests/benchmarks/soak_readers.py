"""Readers of the soak: a process that searches all the time, and the check of every answer that it got.

As a program, it searches until its standard input ends, each query in the mode of the release and in dense mode:

    python tests/benchmarks/soak_readers.py SETTINGS QUERIES FOLDER

Every different answer is one line of FOLDER/answers.jsonl, every failed search one of FOLDER/failures.jsonl.
FOLDER/count is the number of searches so far.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from tasks.core.base.files import digest_of, load
from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Embeddings, Encoder, Release
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.release.history import known_releases, serving
from tasks.core.search.pinned import Answer
from tasks.core.search.searcher import Searcher
from tasks.core.snapshot.reader import load_snapshot, passages_by_id

K, PAUSE = 10, 0.2
TOLERANCE = 1e-3  # of a score: one query in a batch, or several, give slightly different vectors


class Readers:
    """The process of the readers, and its counts."""

    def __init__(self, settings: Path, queries: list[str], folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "queries.json").write_text(json.dumps(queries))
        self.folder, self.queries, self._checked = folder, queries, 0
        command = [sys.executable, __file__, str(settings), str(folder / "queries.json"), str(folder)]
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def wait_for_first_search(self) -> None:
        """Wait until the process has searched.

        Raises SystemExit with the end of its log if it ends, or does not search.
        """
        end = time.monotonic() + 120
        while not self.searches:
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the readers do not search: {(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        self.process.kill()

    @property
    def searches(self) -> int:
        """Number of searches so far."""
        file = self.folder / "count"
        return int(file.read_text() or 0) if file.exists() else 0

    def failures(self) -> list[dict[str, Any]]:
        """Return all failed searches: `at` in seconds since 1970, and the error."""
        return _rows(self.folder / "failures.jsonl")

    def unchecked_answers(self) -> list[dict[str, Any]]:
        """Return the different answers since the last call."""
        answers = _rows(self.folder / "answers.jsonl")
        new, self._checked = answers[self._checked :], len(answers)
        return new


class Check(NamedTuple):
    """Checked answers, and what is wrong with them."""

    checked: int
    wrong: list[str]
    mixed: list[str]


def check_answers(settings_file: Path, answers: list[dict[str, Any]]) -> Check:
    """Compare answers with the artifacts of the release that they name.

    Mixed: a hit is no passage of that release, or has another title or text. Wrong: the ids and scores of a dense
    answer are not those of an exact search with the release's encoder and vectors, or those of another answer are not
    those of a searcher on the serving release alone.
    """
    settings = load_settings(settings_file)
    wrong, mixed, checked = [], [], 0
    for name in {answer["release"] for answer in answers}:
        release = next((known for known in known_releases(settings) if known.release == name), None)
        if release is None:
            wrong.append(f"{name}: no such release")
            continue
        of_release = [answer for answer in answers if answer["release"] == name]
        checked += len(of_release)
        mixed += _find_foreign_texts(settings, release, of_release)
        wrong += _find_wrong_scores(settings, release, of_release)
    return Check(checked, wrong, mixed)


def _find_foreign_texts(settings: Settings, release: Release, answers: list[dict[str, Any]]) -> list[str]:
    ids = sorted({hit[0] for answer in answers for hit in answer["hits"]})
    rows = passages_by_id(load_snapshot(settings.home, release.snapshot), pa.array(ids))
    texts = {id_: digest_of([title, text]) for id_, (title, text) in rows.items()}
    return [
        f"{release.release}: {answer['query']!r}: passage {hit[0]} is not as in its snapshot"
        for answer in answers
        for hit in answer["hits"]
        if texts.get(hit[0]) != hit[2]
    ]


def _find_wrong_scores(settings: Settings, release: Release, answers: list[dict[str, Any]]) -> list[str]:
    from tasks.core.encoder.dual_encoder import load_encoder
    from tasks.core.retrieval.exact import exact_search, passage_ids

    texts = sorted({answer["query"] for answer in answers})
    encoder, embeddings = (
        load(settings.home, Encoder, release.encoder),
        load(settings.home, Embeddings, release.embeddings),
    )
    rows, scores = exact_search(load_encoder(encoder.path).encode_queries(texts), embeddings, K)
    right = {
        (text, "dense"): list(zip(passage_ids(embeddings, rows[number]).to_pylist(), scores[number], strict=True))
        for number, text in enumerate(texts)
    }
    current, _ = serving(settings)
    if current is not None and current.release == release.release:
        with Searcher.open(settings) as searcher:
            right |= {
                (answer.query, ""): [(hit.passage_id, hit.score) for hit in answer.hits]
                for answer in searcher.search(texts, K)
            }
    wrong = []
    for answer in answers:
        expected = right.get((answer["query"], answer["mode"]))
        if expected is not None and not _is_same(answer["hits"], expected):
            wrong.append(
                f"{release.release}: {answer['query']!r} {answer['mode']}: {answer['hits'][:3]}, {expected[:3]}"
            )
    return wrong


def _is_same(hits: list[Any], expected: list[tuple[str, float]]) -> bool:
    """Return whether scores are equal rank by rank, and ids but for near ties."""
    if len(hits) != len(expected):
        return False
    ours, theirs = np.array([hit[1] for hit in hits]), np.array([score for _, score in expected])
    if not np.allclose(ours, theirs, atol=TOLERANCE):
        return False
    score_of = dict(expected)
    return all(abs(score_of.get(id_, theirs[-1]) - score) < TOLERANCE for id_, score, _ in hits)


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _search_until_input_ends(settings: Path, queries: list[str], folder: Path) -> None:
    import threading

    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    seen: set[str] = set()
    count = 0
    with (
        Searcher.open(load_settings(settings)) as searcher,
        (folder / "answers.jsonl").open("a", buffering=1) as answers,
        (folder / "failures.jsonl").open("a", buffering=1) as failures,
    ):
        for query, mode in cycle([(query, mode) for query in queries for mode in ("", Mode.DENSE.value)]):
            if over.is_set():
                break
            try:
                (answer,) = searcher.search(query, K, mode=mode or None)
            except Exception as error:  # every failure counts
                failures.write(json.dumps({"at": time.time(), "error": f"{type(error).__name__}: {error}"}) + "\n")
            else:
                line = _line_of(answer, mode)
                if line not in seen:
                    seen.add(line)
                    answers.write(line)
            count += 1
            if count % 5 == 0:
                (folder / "count").write_text(str(count))
            time.sleep(PAUSE)


def _line_of(answer: Answer, mode: str) -> str:
    hits = [(hit.passage_id, round(hit.score, 5), digest_of([hit.title, hit.text])) for hit in answer.hits]
    return json.dumps({"release": answer.release, "query": answer.query, "mode": mode, "hits": hits}) + "\n"


if __name__ == "__main__":
    _search_until_input_ends(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
