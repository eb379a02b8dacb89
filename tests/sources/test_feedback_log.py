"""The log of votes: durable, whole lines, even if its writers are killed or the disk is full."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.base.errors import NightshiftError
from tasks.core.sources import feedback_log
from tasks.core.sources.feedback_log import LogFull, Origin, Record, Verdict, append_records, log_file
from tasks.core.sources.feedback_rows import find_judgments

APPENDS = """
import sys
from pathlib import Path
from tasks.core.sources.feedback_log import Origin, Record, append_records
for number in range(40):
    record = Record(query=sys.argv[2], passage_id=str(number), verdict="relevant", judge="a", judged_at="now")
    append_records(Path(sys.argv[1]), Origin.FEEDBACK, [record])
"""


def vote(query: str = "a query", passage: str = "p1", verdict: str = "relevant", judge: str = "a") -> Record:
    return Record(
        query=query, passage_id=passage, verdict=Verdict(verdict), judge=judge, judged_at="2026-01-01T00:00:00"
    )


def logged(home: Path, origin: Origin = Origin.FEEDBACK) -> list[Record]:
    content = log_file(home, origin).read_bytes()
    assert content.endswith(b"\n")
    return [Record.model_validate_json(line) for line in content.split(b"\n")[:-1]]


def test_records_of_several_processes_never_mix(tmp_path: Path) -> None:
    names = [f"query of process {number} " + "ü" * 3000 for number in range(4)]
    writers = [subprocess.Popen([sys.executable, "-c", APPENDS, str(tmp_path), name]) for name in names]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    records = logged(tmp_path)
    for name in names:  # each in the order of its writer
        assert [record.passage_id for record in records if record.query == name] == [str(n) for n in range(40)]
    assert len(records) == 160


@pytest.mark.parametrize("torn", [b'{"query": "half of a rec', b"x" * 200_000, b"\xff\xfe"])
def test_the_rest_of_a_torn_line_is_removed_before_the_next_record(tmp_path: Path, torn: bytes) -> None:
    append_records(tmp_path, Origin.FEEDBACK, [vote("first")])
    with log_file(tmp_path, Origin.FEEDBACK).open("ab") as file:
        file.write(torn)
    judgments = find_judgments(tmp_path, votes=1)  # readers ignore it
    assert judgments is not None
    assert sum(map(len, judgments.lines.values())) == 1
    append_records(tmp_path, Origin.FEEDBACK, [vote("second"), vote("third")])
    assert [record.query for record in logged(tmp_path)] == ["first", "second", "third"]


def test_a_failed_write_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_records(tmp_path, Origin.FEEDBACK, [vote("first")])
    before = log_file(tmp_path, Origin.FEEDBACK).read_bytes()
    write = feedback_log.os.pwrite

    def full_disk(handle: int, content: bytes, offset: int) -> int:
        write(handle, content[:10], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feedback_log.os, "pwrite", full_disk)
    with pytest.raises(NightshiftError, match=r"nothing was recorded: .*no space left"):
        append_records(tmp_path, Origin.FEEDBACK, [vote("second")])
    assert log_file(tmp_path, Origin.FEEDBACK).read_bytes() == before


def test_a_full_log_takes_no_more(tmp_path: Path) -> None:
    append_records(tmp_path, Origin.FEEDBACK, [vote()], most_bytes=200)
    before = log_file(tmp_path, Origin.FEEDBACK).read_bytes()
    with pytest.raises(LogFull, match=r"\[feedback\] megabytes"):
        append_records(tmp_path, Origin.FEEDBACK, [vote()], most_bytes=200)
    assert log_file(tmp_path, Origin.FEEDBACK).read_bytes() == before


def test_votes_wait_until_enough_visitors_voted_on_a_pair(tmp_path: Path) -> None:
    assert find_judgments(tmp_path, votes=2) is None
    append_records(tmp_path, Origin.FEEDBACK, [vote(judge="a"), vote(judge="a"), vote(passage="p2", judge="b")])
    assert find_judgments(tmp_path, votes=2) is None
    append_records(tmp_path, Origin.FEEDBACK, [vote("A  query?", judge="b"), vote("A query.", verdict="withdrawn")])
    assert find_judgments(tmp_path, votes=2) is None
    append_records(tmp_path, Origin.FEEDBACK, [vote(judge="c")])
    ready = find_judgments(tmp_path, votes=2)
    assert ready is not None
    assert len(ready.lines[Origin.FEEDBACK]) == 5  # all lines about the pair
    append_records(tmp_path, Origin.FEEDBACK, [vote("another query", judge="c")])
    again = find_judgments(tmp_path, votes=2)
    assert again is not None
    assert again.identity == ready.identity
    other = find_judgments(tmp_path, votes=1)
    assert other is not None
    assert other.identity != ready.identity


def test_lines_that_are_no_votes_are_read_so_that_the_quarantine_shows_them(tmp_path: Path) -> None:
    file = log_file(tmp_path, Origin.JUDGE)
    file.parent.mkdir()
    wrong = [b"[]", b"{", b'{"query": "x"}', b"\xff", json.dumps({**vote().model_dump(), "judge": None}).encode()]
    file.write_bytes(b"\n".join(wrong) + b"\n\n")
    judgments = find_judgments(tmp_path, votes=2)
    assert judgments is not None
    faults = [row["fault"] for batch in judgments.read() for row in batch.to_pylist()]
    assert faults == ["wrong_type", "malformed_json", "missing_field", "invalid_utf8", "wrong_type"]
