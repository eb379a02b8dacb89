"""The languages whose texts Lucene analyzes for BM25, as ISO 639-1 codes: the choices of `[mining] language`."""

from __future__ import annotations

from typing import Literal

# English, and the languages of Anserini's AnalyzerMap.
Language = Literal[
    "ar", "bn", "da", "de", "en", "es", "fa", "fi", "fr", "hi", "hu", "id", "it",
    "ja", "ko", "nl", "no", "pl", "pt", "ru", "sv", "te", "th", "tr", "uk", "zh",
]  # fmt: skip
ENGLISH: Language = "en"
SEVERAL_TERMS_PER_WORD = frozenset({"pl", "uk"})  # the analyzer writes each possible base form of a word


def language_key(language: str) -> dict[str, object]:
    """Return the part of an artifact's key for a language: empty for English, the language of all earlier artifacts."""
    return {} if language == ENGLISH else {"language": language}
