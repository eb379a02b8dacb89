"""Settings that `nightshift init` writes for a new source."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_forms import FORMS, PASSAGES, beir, jsonl, put

from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.settings_file import load_settings
from tasks.core.ingest.language import share_without_common_word
from tasks.core.ingest.source_summary import LONGEST, settings_text, summarize_source


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_its_settings_load(form: str, tmp_path: Path) -> None:
    kind, write = FORMS[form]
    write(tmp_path / "source")
    summary = summarize_source(f"{tmp_path}/source/../source")
    assert (summary.name, summary.format, summary.passages, summary.queries) == ("source", kind, 30, 30)
    assert summary.qrels == {"train": 20, "dev": 5, "test": 5}
    file = tmp_path / "night.toml"
    file.write_text(settings_text(summary, str(tmp_path / "home")))
    settings = load_settings(file)
    assert (settings.data.format, settings.data.path) == (kind, tmp_path / "source")
    assert settings.encoder.passage_tokens == summary.passage_limit.tokens == 32
    assert summary.passage_limit.whole == 1.0


def test_long_passages_get_a_limit_that_a_night_can_afford(tmp_path: Path) -> None:
    beir(tmp_path)
    put(tmp_path, "corpus.jsonl", '{"_id": "p0", "text": "' + "owl " * 2000 + '"}\n')
    assert summarize_source(str(tmp_path)).passage_limit == (LONGEST, 0.0)


def test_an_error_names_the_missing_file(tmp_path: Path) -> None:
    beir(tmp_path)
    (tmp_path / "queries.jsonl").unlink()
    with pytest.raises(BadInput, match=r"queries\.jsonl: not found"):
        summarize_source(str(tmp_path))


def test_an_unrelated_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "photo.jpg", b"\xff\xd8")
    with pytest.raises(BadInput, match="no source that Nightshift knows"):
        summarize_source(str(tmp_path))


def test_queries_that_are_passages_suggest_leave_out_self(tmp_path: Path) -> None:
    beir(tmp_path / "other")
    assert "leave_out_self" not in settings_text(summarize_source(str(tmp_path / "other")), "home")
    beir(tmp_path / "own")
    queries = [{"_id": passage["_id"], "text": passage["text"]} for passage in PASSAGES]
    put(tmp_path / "own", "queries.jsonl", jsonl(queries))
    written = settings_text(summarize_source(str(tmp_path / "own")), "home")
    (line,) = [line for line in written.splitlines() if line.startswith("leave_out_self = true")]
    assert "100% of the queries are passages too" in line
    assert written.index("[evaluation]") < written.index(line)


def test_the_error_names_an_empty_table(tmp_path: Path) -> None:
    beir(tmp_path)
    put(tmp_path, "queries.jsonl", "")
    with pytest.raises(NightshiftError, match="no row of its queries"):
        summarize_source(str(tmp_path))


def test_texts_in_a_script_that_model_and_bm25_cannot_read_are_noted(tmp_path: Path) -> None:
    beir(tmp_path)
    assert summarize_source(str(tmp_path)).notes == ()
    words = ["ข้าวผัดกุ้งอร่อยมาก", "រថភ្លើងនៅលើអាកាស", "ตลาดน้ำดำเนินสะดวก"]
    texts = [word * (1 + n // 3) for n, word in enumerate(words * 10)]
    put(tmp_path, "corpus.jsonl", "".join(f'{{"_id": "p{n}", "text": "{text}"}}\n' for n, text in enumerate(texts)))
    put(
        tmp_path, "queries.jsonl", "".join(f'{{"_id": "q{n}", "text": "{text[:9]}"}}\n' for n, text in enumerate(texts))
    )
    unknown, unanswered = summarize_source(str(tmp_path)).notes
    assert unknown.startswith("100.0% of the queries' tokens and 100.0% of the passages' are unknown to the tokenizer")
    assert unanswered.startswith("100% of the first 30 queries have no word in common with the first 30 passages")


def test_words_are_split_as_in_bm25() -> None:
    passages = ["The River, a castle", "東京の塔", "don't", "ตลาดน้ำ"]
    cases = {"river": 0, "RIVERS": 1, "塔": 0, "ตลาด": 1, "ตลาดน้ำ": 0, "": 1}
    for query, share in cases.items():
        assert share_without_common_word([query], passages) == share, query
