"""Reading and sampling the query log."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tasks.core.base.errors import BadInput
from tasks.core.drift.decide import LogPosition
from tasks.core.drift.query_log import LogReader
from tasks.core.drift.sample import Sample


def write(path: Path, *texts: str, mode: str = "a") -> None:
    with path.open(mode) as file:
        file.writelines(json.dumps({"query": text}) + "\n" for text in texts)


def read(path: Path, position: LogPosition | None = None) -> tuple[list[str], LogReader]:
    reader = LogReader(position or LogPosition(path=str(path)))
    return list(reader.texts()), reader


def test_each_line_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "a", "b")
    first, reader = read(path)
    write(path, "c")
    second, reader = read(path, reader.position)
    assert (first, second) == (["a", "b"], ["c"])
    assert read(path, reader.position)[0] == []


def test_an_incomplete_last_line_is_left_for_the_next_reading(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, "a")
    with path.open("a") as file:
        file.write('{"query": "b')
    first, reader = read(path)
    with path.open("a") as file:
        file.write('c"}\n')
    assert (first, read(path, reader.position)[0]) == (["a"], ["bc"])


@pytest.mark.parametrize("texts", [("x",), ("x", "y", "a longer line than there was")])
def test_a_rotated_log_is_read_from_its_start(tmp_path: Path, texts: tuple[str, ...]) -> None:
    path = tmp_path / "log"
    write(path, "a", "b")
    _, reader = read(path)
    write(path, *texts, mode="w")
    assert read(path, reader.position)[0] == list(texts)


def test_bad_lines_are_counted_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log"
    write(path, "a")
    path.write_bytes(path.read_bytes() + b'nonsense\n{"query": 7}\n[1]\n\xff\xfe\n\n')
    write(path, "b")
    texts, reader = read(path)
    assert texts == ["a", "b"]
    assert reader.skipped == 4
    assert f"{path}: skipped 4 lines" in caplog.text
    assert "the first is line 2: 1 × not JSON; " in caplog.text
    assert read(path, reader.position)[0] == []


def test_any_bad_line_is_skipped_and_reading_continues_after_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'\xef\xbb\xbf{"query": "first"}\n{"query": "nice \\ud83d"}\n' + b"[" * 200_000 + b"\n")
    write(path, "second")
    texts, reader = read(path)
    assert texts == ["first", "second"]
    assert reader.skipped == 2
    assert "the first is line 2: 1 × it holds \\ud83d" in caplog.text
    assert "nested too deeply" in caplog.text
    write(path, "third")
    path.write_bytes(path.read_bytes() + b'{"query": 7}\n')
    assert read(path, reader.position)[0] == ["third"]
    assert "the first is line 6: 1 × no text under query" in caplog.text


def test_the_error_names_a_missing_log(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        read(tmp_path / "nowhere")


def test_a_sample_depends_only_on_texts_and_seed() -> None:
    texts = [f"query {number}" for number in range(1000)]
    shuffled = random.Random(1).sample(texts * 3, 3000)
    samples = []
    for queries, seed in ((texts, 0), (shuffled, 0), (texts, 1)):
        sample = Sample(100, seed)
        sample.add(queries)
        samples.append(sample.texts)
    assert samples[0] == samples[1]
    assert samples[0] != samples[2]
    assert len(set(samples[0])) == 100


def test_a_sample_is_uniform() -> None:
    counts = [0] * 20
    for seed in range(500):
        sample = Sample(5, seed)
        sample.add(str(number) for number in range(20))
        for text in sample.texts:
            counts[int(text)] += 1
    assert all(85 < count < 170 for count in counts), counts  # 125 expected, standard deviation under 10
