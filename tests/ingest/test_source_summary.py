"""Settings that `nightshift init` writes for a new source."""

from __future__ import annotations

from pathlib import Path

import pytest
from language_samples import ARTICLE, OTHER_LANGUAGES
from source_forms import FORMS, PASSAGES, beir, jsonl, put

from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.settings_file import load_settings
from tasks.core.ingest.source_summary import LONGEST, settings_text, summarize_source
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.detect_language import detect_language
from tasks.core.retrieval.language_notes import share_without_common_word, with_language


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
    assert with_language(summarize_source(str(tmp_path))).notes == ()
    words = ["រថភ្លើងនៅលើអាកាស", "ផ្សារបណ្តែតទឹក", "សាលារៀនភូមិ"]
    texts = [word * (1 + n // 3) for n, word in enumerate(words * 10)]
    put(tmp_path, "corpus.jsonl", "".join(f'{{"_id": "p{n}", "text": "{text}"}}\n' for n, text in enumerate(texts)))
    put(
        tmp_path, "queries.jsonl", "".join(f'{{"_id": "q{n}", "text": "{text[:9]}"}}\n' for n, text in enumerate(texts))
    )
    unknown, unanswered = with_language(summarize_source(str(tmp_path))).notes
    assert unknown.startswith("100.0% of the queries' tokens and 100.0% of the passages' are unknown to the tokenizer")
    assert unanswered.startswith("100% of the first 30 queries have no word in common with the first 30 passages")

    assert 'as [mining] language = "en" splits and stems them' in unanswered


def test_words_are_those_of_bm25_in_the_language() -> None:
    passages = ["The River, a castle", "東京の塔", "Straßen und Häuser", "ตลาดน้ำ"]
    english = {"river": 0, "RIVERS": 0, "the": 1, "塔": 0, "Haus": 1, "ตลาด": 1, "ตลาดน้ำ": 0, "": 1}
    german = {"Haus": 0, "und": 1, "Strasse": 0}
    for language, cases in (("en", english), ("de", german)):
        for query, share in cases.items():
            assert share_without_common_word([query], passages, language) == share, (language, query)


@pytest.mark.parametrize("language", ARTICLE)
def test_the_language_of_a_paragraph_is_detected(language: str) -> None:
    assert detect_language([ARTICLE[language]]).language == language


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_a_language_without_an_analyzer_is_not_taken_for_a_related_one(language: str) -> None:
    detected = detect_language([OTHER_LANGUAGES[language]])
    assert (detected.language, detected.analyzed) == (language, "en")


def test_names_and_numbers_are_of_no_language() -> None:
    detected = detect_language(["Samsung Galaxy 128GB", "Bosch 42-17", "Lego Technic"])
    assert detected.language == "en"
    assert detected.reason.startswith("not recognized")


@pytest.mark.parametrize(("language", "note"), [("cs", 'look like "cs"'), ("th", "full JDK"), ("de", "")])
def test_the_settings_name_the_language_of_the_passages(language: str, note: str, tmp_path: Path) -> None:
    beir(tmp_path)
    words = (ARTICLE | OTHER_LANGUAGES)[language]
    put(tmp_path, "corpus.jsonl", jsonl([{"_id": f"p{n}", "text": f"{n} {words}"} for n in range(30)]))
    put(tmp_path, "queries.jsonl", jsonl([{"_id": f"q{n}", "text": words[:60]} for n in range(30)]))
    summary = with_language(summarize_source(str(tmp_path)))
    (tmp_path / "night.toml").write_text(settings_text(summary, str(tmp_path / "home")))
    assert load_settings(tmp_path / "night.toml").mining.language == ("en" if language == "cs" else language)
    if note and not (language == "th" and can_split_thai()):
        assert note in " ".join(summary.notes)


def can_split_thai() -> bool:
    try:
        return bool(Analyzer("th", "porter"))
    except NightshiftError:
        return False
