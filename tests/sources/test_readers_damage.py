"""Truncated or damaged files stop the night and are named; huge records use bounded memory."""

import os
import random
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from source_forms import FORMS, beir, dpr, pack, put, rows

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest

ROOT = Path(__file__).parents[2]
SEEDS = 80
MOST_MIB = 768  # above the bare program, for any content; see sources/lines.py


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_truncated_anywhere_stops_the_night(ending: str, tmp_path: Path) -> None:
    beir(tmp_path, ending)
    file = tmp_path / f"queries.jsonl{ending}"
    whole = file.read_bytes()
    for length in range(0, len(whole), 3):
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=rf"queries\.jsonl{ending}: cannot be read to its end past line \d+ "):
            rows("beir", tmp_path, tmp_path)
    file.write_bytes(whole + b"trailing")
    with pytest.raises(BadInput, match=r"past line \d+"):
        rows("beir", tmp_path, tmp_path)


def test_a_truncated_source_publishes_nothing(tmp_path: Path) -> None:
    beir(tmp_path / "source", ".gz")
    file = tmp_path / "source" / "corpus.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadInput, match="An unknown number of rows is missing, so nothing of this source is used"):
        ingest(Settings(home=tmp_path / "home", data=DataSettings(format="beir", path=tmp_path / "source")))
    assert not (tmp_path / "home" / "snapshots").exists()


def test_two_members_in_one_compressed_file_are_read_to_the_end(tmp_path: Path) -> None:
    beir(tmp_path)
    file = tmp_path / "corpus.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.unlink()
    for ending in (".gz", ".zst"):
        parts = pack(b"".join(lines[:10]), ending) + pack(b"".join(lines[10:]), ending)
        (tmp_path / f"corpus.jsonl{ending}").write_bytes(parts)
        assert len(rows("beir", tmp_path, tmp_path)["passages"]) == 30
        (tmp_path / f"corpus.jsonl{ending}").unlink()


@pytest.mark.parametrize("form", ["parquet", "hub folder", "saved to disk", "arrow files"])
def test_a_damaged_columnar_file_is_reported_or_its_rows_are_correct(form: str, tmp_path: Path) -> None:
    kind, write = FORMS[form]
    write(tmp_path)
    files = sorted(file for file in tmp_path.rglob("*.*") if file.suffix in (".parquet", ".arrow"))
    files = [file for file in files if not file.name.startswith("cache-")]
    unnamed = []
    for seed in range(SEEDS):
        draw = random.Random(seed)
        file = draw.choice(files)
        whole = file.read_bytes()
        place = draw.randrange(len(whole))
        spoiled = [
            whole[:place],
            whole[:place] + draw.randbytes(4) + whole[place + 4 :],
            whole[:place] + whole[place + draw.randrange(1, 9) :],
        ]
        file.write_bytes(draw.choice(spoiled))
        try:
            rows(kind, tmp_path, tmp_path)
        except BadInput as error:
            unnamed += [str(error)] if file.name not in str(error) else []
        file.write_bytes(whole)
    assert not unnamed


def test_an_arrow_stream_truncated_between_batches_stops_the_night(tmp_path: Path) -> None:
    FORMS["saved to disk"][1](tmp_path)
    file = tmp_path / "corpus" / "data-00000-of-00001.arrow"
    whole = file.read_bytes()
    for place in range(8, len(whole), 8):
        file.write_bytes(whole[:place])
        with pytest.raises(BadInput, match=r"corpus/data-00000-of-00001\.arrow: "):
            rows("parquet", tmp_path, tmp_path)


def test_columns_of_non_text_types_are_refused_and_bad_values_are_quarantined(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    FORMS["parquet"][1](tmp_path)
    raw = pa.array([b"fine", b"not \xff utf-8", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"_id": [1, 2, 3], "text": raw}), tmp_path / "corpus.parquet")
    scores = pa.table({"query-id": ["a", "b", "c"], "corpus-id": ["d", "e", "f"], "score": [1.0, 0.5, None]})
    pq.write_table(scores, tmp_path / "qrels" / "train.parquet")
    rows_read = rows("parquet", tmp_path, tmp_path)
    assert [(row["passage_id"], row["fault"], row["text"]) for row in rows_read["passages"]] == [
        ("1", None, "fine"),
        ("2", "invalid_utf8", "not \\xff utf-8"),
        ("3", None, None),
    ]
    train = [row for row in rows_read["qrels"] if row["split"] == "train"]
    assert [(row["relevance"], row["fault"], row["line"]) for row in train] == [
        (1, None, 1),
        (None, "bad_score", 2),
        (None, None, 3),
    ]
    pq.write_table(pa.table({"_id": ["1"], "text": [[1.5]]}), tmp_path / "corpus.parquet")
    with pytest.raises(BadInput, match=r"corpus\.parquet: column text has type list"):
        rows("parquet", tmp_path, tmp_path)
    pq.write_table(pa.table({"_id": ["1"], "body": ["b"]}), tmp_path / "corpus.parquet")
    with pytest.raises(BadInput, match=r"corpus\.parquet: has no column text or passage or contents, only _id, body"):
        rows("parquet", tmp_path, tmp_path)


def huge_line(root: Path) -> None:
    beir(root)
    with (root / "corpus.jsonl").open("ab") as file:
        for _ in range(200):
            file.write(b"x" * 2**20)
        file.write(b'\n{"_id": "after", "text": "The line after the huge one."}\n')


def many_objects(root: Path) -> None:
    beir(root)
    line = b'{"_id": "after", "text": "b", "meta": [' + b"{}," * (5 * 2**20) + b"{}]}\n"
    put(root, "corpus.jsonl", line * 2)


def binary_junk(root: Path) -> None:
    beir(root)
    put(root, "corpus.jsonl", (b"\xff" * (8 * 2**20) + b"\n") * 4 + b'{"_id": "after", "text": "t"}')


def large_questions(root: Path) -> None:
    """Two questions of 16 MiB, of as many JSON objects as possible."""
    dpr(root)
    file = root / "biencoder-small-train.json"
    whole = file.read_bytes().rstrip()[:-2]
    with file.open("wb") as out:
        out.write(whole)
        for name in (b"large", b"after"):
            context = b'{"text": "' + name + b'", "passage_id": "' + name + b'"}'
            out.write(b',\n    {"question": "' + name + b'", "positive_ctxs": [' + context + b'], "meta": [')
            out.write(b"{}," * (5 * 2**20) + b"{}]}")
        out.write(b"\n]")


@pytest.mark.parametrize("write", [huge_line, many_objects, binary_junk, large_questions])
def test_huge_records_use_bounded_memory_and_affect_no_other_row(write: Any, tmp_path: Path) -> None:
    kind = "dpr" if write is large_questions else "beir"
    (tmp_path / "source").mkdir()
    write(tmp_path / "source")
    code = (
        "import resource, sys; from pathlib import Path; from source_forms import rows; import duckdb\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "bare = peak(); scratch = Path(sys.argv[3]); scratch.mkdir()\n"
        "from tasks.core.sources.source import find_source; from tasks.core.base.settings import DataSettings\n"
        "read = find_source(DataSettings(format=sys.argv[1], path=sys.argv[2])).open(scratch)\n"
        "ids = [name for batch in read('passages') for name in batch.column('passage_id').to_pylist()]\n"
        "assert 'after' in ids; list(read('queries')); print(peak() - bare)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, kind, str(tmp_path / "source"), str(tmp_path / "scratch")],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parent,
        env={"PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests" / "fixtures"])), "PATH": ""},
    )  # fmt: skip
    assert int(ran.stdout) / 1024 < MOST_MIB


def test_an_element_over_the_limit_stops_the_night_and_is_named(tmp_path: Path) -> None:
    put(tmp_path, "train.json", b'[{"question": "' + b"y" * (17 * 2**20) + b'"}]')
    with pytest.raises(BadInput, match=r"train\.json:1: element 1 .* more than 16777216 characters"):
        rows("dpr", tmp_path, tmp_path / "scratch")


def test_a_huge_line_keeps_its_start_and_the_place_of_the_rest(tmp_path: Path) -> None:
    beir(tmp_path)
    file = tmp_path / "corpus.jsonl"
    offset = file.stat().st_size
    line = b'{"_id": "huge", "text": "' + b"z" * (17 * 2**20) + b'"}'
    put(tmp_path, "corpus.jsonl", file.read_bytes() + line + b'\n{"_id": "after", "text": "t"}')
    *_, huge, after = rows("beir", tmp_path, tmp_path)["passages"]
    assert (huge["fault"], huge["line"], len(huge["record"])) == ("record_too_long", 31, 2**20)
    assert f"{len(line)} bytes" in huge["fault_detail"]
    assert f"begins at byte {offset} " in huge["fault_detail"]
    assert sha256(line).hexdigest() in huge["fault_detail"]
    assert (after["passage_id"], after["line"]) == ("after", 32)
