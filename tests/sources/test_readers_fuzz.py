"""Any content of source files gives rows, or an error with file and row; intact rows are never lost."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_forms import beir, dpr, msmarco, put, rows, tevatron

from tasks.core.base.errors import BadInput
from tasks.core.sources.dpr import NAMES as dpr_names
from tasks.core.sources.examples import parts
from tasks.core.sources.json_array import elements
from tasks.core.sources.locations import find
from tasks.core.sources.rows import Fault

SEEDS = 60  # mutated sources of each form
BAD_LINES = [
    b"oops", b"{", b'{"_id": "x", "text": "cut', b'["a", "b"]', b"null", b"NaN", b'"text"', b"\xff\xfe\x00\x01",
    "schön".encode("utf-16"), "schön".encode("latin-1"), b"\x00" * 40, b"[" * 100_000, b'{"a":' * 100_000,
    b'{"_id": "x", "text": "a", "text": "b"}', rb'{"_id": "x", "text": "a", "\u0074ext": "b"}',
    b'{"_id": "x", "text": NaN}', b'{"_id": Infinity, "text": "t"}', b'{"_id": "x", "text": ' + b"9" * 5000 + b"}",
    rb'{"_id": "x", "text": "half \ud83d a pair"}', rb'{"_id": "\udc00", "text": "t"}', b'{"_id": "x"}',
    b'{"_id": "x", "text": {"nested": "text"}}', b'{"_id": "x", "text": "a\x00b"}', b'{"_id": "x", "text": "a"} {}',
]  # fmt: skip
ODD_LINES = [  # unusual, but valid rows
    (b'{"_id": "x", "text": "a", "meta": NaN, "more": 1e999}', ("x", "", "a")),
    (b'{"_id": "x", "text": "a", "meta": {"n": 1, "n": 2}}', ("x", "", "a")),
    (rb'{"_id": "x", "text": "a", "meta": "\ud800"}', ("x", "", "a")),
    (b'  {"text" : "a","_id":"x" , "title":null}\t ', ("x", "", "a")),
    (rb'{"_id": "x", "text": "\ud83e\udd89\u0000"}', ("x", "", "\U0001f989\x00")),
    (
        '{"_id": "x", "text": "a\u2028b\u0085c"}'.encode(),
        ("x", "", "a\u2028b\u0085c"),
    ),  # no line separators in JSON Lines
]
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
GOOD = st.tuples(TEXT, TEXT, TEXT).map(
    lambda row: (json.dumps(dict(zip(("_id", "title", "text"), row, strict=True))).encode(), row)
)
JUNK = st.one_of(
    st.sampled_from(BAD_LINES),
    st.binary(max_size=60).map(lambda data: b"\xff" + data.replace(b"\n", b"\r")),
).map(lambda line: (line, None))
LINES = st.lists(st.one_of(GOOD, JUNK, st.sampled_from(ODD_LINES), st.just((b"", None))), max_size=30)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, end=st.sampled_from([b"\n", b"\r\n"]), bom=st.booleans(), last=st.booleans(),
       ending=st.sampled_from(["", ".gz", ".zst"]))  # fmt: skip
def test_every_valid_line_is_a_row_and_every_invalid_line_a_fault_with_its_bytes(
    lines: list[tuple[bytes, Any]],
    end: bytes,
    bom: bool,
    last: bool,
    ending: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("lines")
    beir(root)
    (root / "corpus.jsonl").unlink()
    data = end.join(line for line, _ in lines) + (end if last else b"")
    put(root, "corpus.jsonl", (b"\xef\xbb\xbf" if bom else b"") + data, ending)
    rows_read = rows("beir", root, root)["passages"]
    expected = [(number, *line) for number, line in enumerate(lines, start=1) if line[0].strip()]
    assert [row["line"] for row in rows_read] == [number for number, _, _ in expected]
    for row, (_, line, good) in zip(rows_read, expected, strict=True):
        assert row["record"] == line.rstrip(b"\r").decode("utf-8", "backslashreplace") or row["record"] == line.decode(
            "utf-8", "backslashreplace"
        )
        if good is None:
            assert row["fault"]
            assert row["fault_detail"]
        else:
            assert row["fault"] is None
            assert (row["passage_id"], row["title"], row["text"]) == good


SPECIAL = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\n",
    b"\r\n",
    b"\t",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\u",
    b'"}\n',
]


def corrupt_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return `data` with one to three corruptions."""
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        near = min(b, a + draw.randrange(1, 40))
        data = (
            draw.choice(
                [
                    lambda a=a, data=data: data[:a],
                    lambda a=a, near=near, data=data: data[:a] + data[near:],
                    lambda a=a, data=data: data[:a] + draw.choice(SPECIAL) + data[a:],
                    lambda a=a, data=data: data[:a] + draw.randbytes(draw.randrange(1, 50)) + data[a:],
                    lambda a=a, near=near, data=data: data[:a] + draw.randbytes(near - a) + data[near:],
                    lambda a=a, near=near, data=data: data[:near] + data[a:near] + data[near:],
                    lambda a=a, near=near, data=data: data[:a] + draw.choice(SPECIAL) + data[near:],
                    lambda a=a, data=data: data[:a] + data[a:].replace(b"\n", b"\r\n"),
                    lambda a=a, data=data: data[:a] + data[a:].decode("utf-8", "replace").encode("utf-16"),
                ]
            )()
            or b"\n"
        )
    return data


def corrupt(root: Path, draw: random.Random) -> Path:
    """Corrupt a file of a source, and return its path."""
    file = draw.choice(sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".json"))
    file.write_bytes(corrupt_bytes(file.read_bytes(), draw))
    return file


@pytest.mark.parametrize("write", [beir, msmarco], ids=["beir", "msmarco"])
def test_lines_outside_a_corruption_are_unchanged_rows(write: Any, tmp_path: Path) -> None:
    kind = write.__name__
    write(tmp_path / "whole")
    before = rows(kind, tmp_path / "whole", tmp_path / "scratch")
    row_of_record = {
        (table, row["file"], row["record"]): row for table, table_rows in before.items() for row in table_rows
    }
    stopped = []
    for seed in range(SEEDS * 3):
        root = tmp_path / str(seed)
        write(root)
        file = corrupt(root, random.Random(seed))
        name = file.relative_to(root).as_posix()
        try:
            rows_read = rows(kind, root, root)
        except BadInput as error:
            stopped.append(f"{name}: header is" in str(error))
            continue
        table_rows = [(table, row) for table, many in rows_read.items() for row in many]
        lines = [line for line in file.read_bytes().split(b"\n") if line.strip()]
        header = name.startswith("qrels/") and lines and lines[0].rstrip(b"\r") == b"query-id\tcorpus-id\tscore"
        assert sum(row["file"] == name for _, row in table_rows) == len(lines) - bool(header), seed
        for table, row in table_rows:
            if (old := row_of_record.get((table, row["file"], row["record"]))) is not None:
                assert {**row, "row": 0, "line": 0} == {**old, "row": 0, "line": 0}, seed
            assert row["fault"] is None or row["fault_detail"], seed
    assert all(stopped)  # only by a header with other columns
    assert len(stopped) < SEEDS


def test_records_outside_a_corruption_keep_their_query_passages_and_positives(tmp_path: Path) -> None:
    tevatron(tmp_path / "whole")
    whole = {line for file in (tmp_path / "whole").iterdir() for line in file.read_bytes().split(b"\n") if line}
    for seed in range(SEEDS):
        root = tmp_path / str(seed)
        tevatron(root)
        file = corrupt(root, random.Random(seed))
        rows_read = rows("tevatron", root, root)
        intact = [json.loads(line) for line in file.read_bytes().split(b"\n") if line in whole]
        accepted = {(row["query_id"], row["text"]) for row in rows_read["queries"] if row["fault"] is None}
        pairs = {(row["query_id"], row["passage_id"]) for row in rows_read["qrels"]}
        texts = {(row["passage_id"], row["text"]) for row in rows_read["passages"] if row["fault"] is None}
        for record in intact:
            assert (record["query_id"], record["query"]) in accepted, seed
            for passage in record["positive_passages"] + record["negative_passages"]:
                assert (passage["docid"], passage["text"]) in texts, seed
            assert (record["query_id"], record["positive_passages"][0]["docid"]) in pairs, seed


@pytest.mark.parametrize("indent", [4, None])
def test_a_corruption_within_a_question_of_an_array_affects_only_it_or_stops_the_night(
    indent: int | None, tmp_path: Path
) -> None:
    dpr(tmp_path, indent=indent)
    file = tmp_path / "biencoder-small-train.json"
    whole = file.read_bytes()
    intact = questions(file) - {"q7"}
    start, end = whole.index(b'"q7"') - 20, whole.index(b'"q8"') - 40
    line = whole[:start].count(b"\n") + 1
    stopped = 0
    for seed in range(SEEDS * 2):
        draw = random.Random(seed)
        place = draw.randrange(start, end)
        gone = draw.choice([0, 1, 1])
        file.write_bytes(whole[:place] + draw.choice([*SPECIAL, b""]) + whole[place + gone :])
        try:
            accepted = questions(file)
        except BadInput as error:
            message = str(error)
        else:
            assert intact <= accepted, seed
            continue
        named = re.search(r"biencoder-small-train\.json:(\d+): element [89] is not JSON.*Copy the file again", message)
        assert named, message
        assert abs(int(named[1]) - line) < 20, seed
        stopped += 1
    assert 0 < stopped < SEEDS * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"question": "which"},\n', r"train\.json:2: ends without the \] of its array \(element 1\)"),
        (b'[{"question": "which"}]\n[]', r"train\.json:2: continues after the \] of its array \(element 1\)"),
        (b'[{"question": "whi', r"train\.json:1: element 1 is not JSON.*Unterminated string.*\{\"question\": \"whi"),
        (b"[" * 100_000, r"train\.json:1: element 1 is not JSON.*recursion"),
    ],
)
def test_an_array_that_is_cut_off_or_continues_stops_by_name(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        questions(file)


def questions(file: Path) -> set[str]:
    """Return the ids of the readable questions."""
    place = find(file)
    rows_of_records = [
        part for raw in elements(place, place.files()[0]) for part in parts(raw.content, "train", dpr_names)
    ]
    return {
        str(part.parsed[0])
        for part in rows_of_records
        if part.table == "queries" and not isinstance(part.parsed, Fault)
    }
