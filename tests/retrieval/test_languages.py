"""BM25 in other languages: the in-process index ranks and scores as Lucene does."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from language_samples import ARTICLE
from small_snapshot import snapshot_of

from tasks.core.base.errors import NightshiftError
from tasks.core.base.languages import ENGLISH, Language
from tasks.core.base.ranking import Ranking
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import Settings
from tasks.core.report.night import recipe_of
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_scorer import open_scorer
from tasks.core.retrieval.postings import build_postings
from tasks.core.retrieval.query_lines import one_line
from tasks.core.snapshot.reader import queries

PASSAGES, QUERIES = 150, 30
QUICK = {"de", "pl", "ar", "ja"}  # stemmed; several base forms per word; elongated words; no spaces
SLOW = sorted(set(get_args(Language)) - QUICK)


def skip_thai_without_a_full_jdk():
    try:
        Analyzer("th", "porter")
    except NightshiftError as error:
        pytest.skip(str(error))


def drawn_texts(language, count, longest, random):
    """Random words of the language's article; random stretches where words have no spaces between them."""
    article = ARTICLE[language]
    if language in {"ja", "th", "zh"}:
        starts = random.integers(0, len(article) - 2, (count, 3))
        return ["。 ".join(article[s : s + random.integers(2, 2 + longest)] for s in row) for row in starts]
    words = article.split()
    return [" ".join(random.choice(words, random.integers(1, 1 + longest))) for _ in range(count)]


@pytest.mark.parametrize(
    "language", [*sorted(QUICK), *(pytest.param(language, marks=pytest.mark.slow) for language in SLOW)]
)
def test_ranking_and_scores_are_lucenes(language, tmp_path):
    if language == "th":
        skip_thai_without_a_full_jdk()
    random = np.random.default_rng(0)
    passages = {f"p{row:03d}": text for row, text in enumerate(drawn_texts(language, PASSAGES, 40, random))}
    wordings = {f"q{row:02d}": text for row, text in enumerate(drawn_texts(language, QUERIES, 6, random))}
    snapshot = snapshot_of(tmp_path, passages, wordings)
    mining = MiningSettings(language=language, heap_mb=256, threads=2, scorer="lucene")
    run = search_bm25(tmp_path, build_index(tmp_path, snapshot, mining), queries(snapshot), PASSAGES, mining)
    lucene: dict[str, list[tuple[str, float]]] = {}
    for hit in pq.read_table(run.path / "run.parquet").to_pylist():
        lucene.setdefault(hit["query_id"], []).append((hit["passage_id"], hit["score"]))
    assert len(lucene) > QUERIES / 2

    postings = build_postings(tmp_path, snapshot, language, "porter")
    scorer = open_scorer(postings, Ranking(postings=postings.digest, language=language))
    for query, text in wordings.items():
        ((rows, scores),) = scorer.search([text], PASSAGES)
        hits = lucene.get(query, [])
        order = np.lexsort((rows, -scores.round(6)))  # Anserini writes six decimals; equal ones are in snapshot order
        assert [f"p{row:03d}" for row in rows[order]] == [passage for passage, _ in hits]
        assert scores[order] == pytest.approx([score for _, score in hits], abs=1e-6)


def test_the_languages_are_those_of_anserini():
    Analyzer(ENGLISH, "porter")  # starts the JVM
    from jnius import JavaClass, JavaStaticField, MetaJavaClass

    class AnalyzerMap(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "io/anserini/analysis/AnalyzerMap"
        analyzerMap = JavaStaticField("Ljava/util/Map;")

    assert set(get_args(Language)) == {*re.findall(r"(\w+)=", AnalyzerMap.analyzerMap.toString()), ENGLISH}


@pytest.mark.parametrize(("language", "word", "inflected"), [
    ("de", "Haus", "Häuser"),
    ("fr", "maison", "l'maisons"),
    ("ru", "дом", "домами"),
    ("pl", "pies", "psy"),
    ("ar", "كتاب", "الكتـــاب"),
])  # fmt: skip
def test_inflected_words_share_a_term(language, word, inflected):
    analyzer = Analyzer(language, "porter")
    assert set(analyzer.terms(word)) & set(analyzer.terms(inflected))
    assert not set(Analyzer(ENGLISH, "porter").terms(word)) & set(Analyzer(ENGLISH, "porter").terms(inflected))


def test_artifacts_of_english_keep_their_names_and_other_languages_have_their_own(tmp_path):
    snapshot = snapshot_of(tmp_path, {"a": "die Häuser"}, {"q": "Haus"})
    settings = {language: MiningSettings(language=language, heap_mb=128) for language in ("en", "de")}
    indexes = {language: build_index(tmp_path, snapshot, mining) for language, mining in settings.items()}
    postings = {language: build_postings(tmp_path, snapshot, language, "porter") for language in settings}
    assert indexes["en"].digest != indexes["de"].digest
    assert postings["en"].digest != postings["de"].digest
    assert search_bm25(tmp_path, indexes["en"], queries(snapshot), 5, settings["en"]).rows == 0
    assert search_bm25(tmp_path, indexes["de"], queries(snapshot), 5, settings["de"]).rows == 1


def test_another_language_is_another_recipe():
    recipes = {language: recipe_of(Settings(mining=MiningSettings(language=language))) for language in ("en", "de")}
    assert recipes["en"] == recipe_of(Settings())
    assert recipes["en"] != recipes["de"]


def test_a_stemmer_of_english_is_refused_for_another_language():
    with pytest.raises(ValueError, match=r'stemmer = "krovetz" applies to English only, and language is "de"'):
        MiningSettings(language="de", stemmer="krovetz")


def test_long_queries_are_cut_where_a_word_makes_several_terms():
    assert one_line("dom " * 1500, "de").count("dom") == 1000
    assert one_line("dom " * 1500, "pl").count("dom") == 250
