"""Detect the language of a source, and check on samples whether the tokenizer and BM25 can read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import find_base
from tasks.core.encoder.learnable import tokenize_sample, warn_of_unknown_tokens
from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.ingest.source_summary import SourceSummary
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.detect_language import detect_language

HALF = 0.5  # share of queries without a common word with the passages from which a warning is given
LIMIT = 512  # tokens checked per text


def with_language(summary: SourceSummary) -> SourceSummary:
    """Return the summary with the language of its sampled passages, and with notes about texts that are not readable.

    Raises NightshiftError when Java or Anserini is missing.
    """
    queries, passages = summary.query_sample, summary.passage_sample
    detected = detect_language(passages)
    model = EncoderSettings().model
    notes = [
        "" if detected.analyzed == detected.language else _warn_of_other_language(detected.language),
        _warn_of_unknown_tokens(model, read_tokenizer(find_base(model)), queries, passages),
        _warn_of_no_common_word(queries, passages, detected.analyzed),
    ]
    return replace(
        summary,
        language=detected.analyzed,
        language_reason=detected.reason if detected.analyzed == detected.language else "no analyzer for the language",
        notes=(*summary.notes, *filter(None, notes)),
    )


def share_without_common_word(queries: Sequence[str], passages: Sequence[str], language: str) -> float:
    """Return the share of queries that have no term of BM25 in common with any passage.

    Raises NightshiftError when Java cannot analyze the language.
    """
    analyzer = Analyzer(language, MiningSettings().stemmer)
    terms = {term for text in passages for term in analyzer.terms(text)}
    return sum(terms.isdisjoint(analyzer.terms(text)) for text in queries) / max(1, len(queries))


def _warn_of_other_language(language: str) -> str:
    return (
        f'the passages look like "{language}" (ISO 639), which BM25 has no analyzer for. It uses the one of English, '
        "which splits words at spaces. Set [mining] language if this is wrong"
    )


def _warn_of_unknown_tokens(model: str, tokenizer: Any, queries: Sequence[str], passages: Sequence[str]) -> str:
    unknown = [tokenize_sample(tokenizer, texts, LIMIT).unknown for texts in (queries, passages)]
    return warn_of_unknown_tokens(model, *unknown)


def _warn_of_no_common_word(queries: Sequence[str], passages: Sequence[str], language: str) -> str:
    try:
        share = share_without_common_word(queries, passages, language)
    except NightshiftError as error:
        return f'{error} Or set [mining] language = "en", with which BM25 finds words between spaces only'
    if share < HALF:
        return ""
    return (
        f"{share:.0%} of the first {len(queries):,} queries have no word in common with the first {len(passages):,} "
        f'passages, as [mining] language = "{language}" splits and stems them: BM25 cannot answer them, and the first '
        "mining round finds no negatives for them. If the texts are in another language, set [mining] language"
    )
