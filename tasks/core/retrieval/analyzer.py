"""Analyze texts into index terms with Lucene's analyzers, in this process.

A JVM starts in the process at the first text (0.2 s, about 60 MB; 1 s more in other languages than English) and stays.
Analyzing a query takes about 15 µs.
"""

from __future__ import annotations

import locale
import os
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tasks.core.base.errors import NightshiftError
from tasks.core.base.languages import ENGLISH, SEVERAL_TERMS_PER_WORD
from tasks.core.retrieval.jvm import FULL_JDK, NO_THAI, anserini_jar, find_java

HEAP_MB = 192
SEPARATOR = "\x1f"  # between the terms of a text; no tokenizer of Lucene keeps it
_starting = threading.Lock()
_attached = threading.local()
ELONGATED, ELONGATION = {"ar", "fa"}, "\u0640"  # a mark that stretches a word; the analyzers remove it


class Analyzer:
    """Splits text into terms as the BM25 index of the same language and stemmer does. Thread-safe."""

    def __init__(self, language: str, stemmer: str) -> None:
        """Start the JVM if necessary.

        Args:
            language: ISO 639-1 code, one of `base.languages.Language`.
            stemmer: of English; other languages use the stemmer of their analyzer.

        Raises:
            NightshiftError: Java or Anserini is missing or does not start, or cannot analyze the language.
        """
        self._language = language
        self._java = _java()
        with _starting:
            self._analyzer = self._java.analyzer(language, stemmer)

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, in order; a repeated term is repeated."""
        joined = self.joined_terms(text)
        return joined.split(SEPARATOR) if joined else []

    def joined_terms(self, text: str) -> str:
        """Return the terms of a text joined by `SEPARATOR`; empty if it has no term."""
        _detach_at_end()
        joined: str = self._java.join(SEPARATOR, self._java.analyze(self._analyzer, text))
        return joined

    def joined_terms_of(self, texts: Sequence[str]) -> list[str]:
        """Return `joined_terms` of each text."""
        return [self.joined_terms(text) for text in texts]

    def lengths(self, texts: Sequence[str], terms: np.ndarray) -> np.ndarray:
        """Return the lengths of texts as Lucene counts them: int64 (n,).

        The length is the number of terms, except where several terms are base forms of one word (they count as one),
        and where Arabic and Persian drop a word of elongation marks only (it counts, although it is no term).

        Args:
            texts: n texts.
            terms: number of terms of each text, int64 (n,).
        """
        if self._language in SEVERAL_TERMS_PER_WORD:
            chosen = list(range(len(texts)))
        elif self._language in ELONGATED:
            chosen = [row for row, text in enumerate(texts) if ELONGATION in text]
        else:
            return terms
        lengths = terms.copy()
        for row in chosen:
            lengths[row] = _positions(self._java.phrase(self._analyzer, texts[row]))
        return lengths


def _positions(phrase: str | None) -> int:
    """Count the words in Lucene's text form of a phrase query, such as `"a (b c) ? d"`, where `?` is a stop word."""
    if phrase is None:
        return 0
    if not phrase.startswith('"'):
        return 1  # a single word
    words = re.sub(r"\([^)]*\)", "x", phrase[1:-1]).split(" ")
    return len(words) - words.count("?")


# Java classes are declared explicitly, because jnius takes seconds to discover the methods of all related classes.


class _Java:
    """The Java methods that analyze text."""

    def __init__(self) -> None:
        from jnius import JavaClass, JavaStaticMethod, MetaJavaClass

        class English(JavaClass, metaclass=MetaJavaClass):
            __javaclass__ = "io/anserini/analysis/DefaultEnglishAnalyzer"
            newStemmingInstance = JavaStaticMethod(  # noqa: N815
                "(Ljava/lang/String;)Lio/anserini/analysis/DefaultEnglishAnalyzer;"
            )

        class AnalyzerUtils(JavaClass, metaclass=MetaJavaClass):
            __javaclass__ = "io/anserini/analysis/AnalyzerUtils"
            analyze = JavaStaticMethod("(Lorg/apache/lucene/analysis/Analyzer;Ljava/lang/String;)Ljava/util/List;")

        class String(JavaClass, metaclass=MetaJavaClass):
            __javaclass__ = "java/lang/String"
            join = JavaStaticMethod("(Ljava/lang/CharSequence;Ljava/lang/Iterable;)Ljava/lang/String;")

        self.analyze, self.join, self._english = AnalyzerUtils.analyze, String.join, English.newStemmingInstance

    def analyzer(self, language: str, stemmer: str) -> Any:
        """Create an analyzer. Raises NightshiftError when this Java cannot analyze the language."""
        if language == ENGLISH:
            return self._english(stemmer)
        from jnius import JavaException

        analyzer = _analyzer_map().getLanguageSpecificAnalyzer(language)
        try:
            self.analyze(analyzer, "")
        except JavaException as error:
            if NO_THAI in str(error):
                raise NightshiftError(FULL_JDK) from error
            raise NightshiftError(f"Lucene cannot analyze texts in language {language!r}: {error}") from error
        return analyzer

    def phrase(self, analyzer: Any, text: str) -> str | None:
        """Return the text form of the phrase query for a text; None if the text has no word."""
        query = _query_builder()(analyzer).createPhraseQuery("", text)
        return None if query is None else query.toString("")


class _Attachment:
    """The JVM's record of a thread that called Java. The JVM frees it here; otherwise 8 KB of each thread stay."""

    def __del__(self) -> None:
        from jnius import detach

        detach()


def _detach_at_end() -> None:
    """Detach this thread from the JVM when it ends: its local variables are freed then."""
    if not hasattr(_attached, "attachment") and threading.current_thread() is not threading.main_thread():
        _attached.attachment = _Attachment()


@lru_cache
def _analyzer_map() -> Any:
    """Return Anserini's analyzers by language. It starts a logger of Java, which takes a second."""
    from jnius import JavaClass, JavaStaticMethod, MetaJavaClass

    class LuceneAnalyzer(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "org/apache/lucene/analysis/Analyzer"

    class AnalyzerMap(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "io/anserini/analysis/AnalyzerMap"
        getLanguageSpecificAnalyzer = JavaStaticMethod(  # noqa: N815
            "(Ljava/lang/String;)Lorg/apache/lucene/analysis/Analyzer;"
        )

    return AnalyzerMap


@lru_cache
def _query_builder() -> Any:
    """Return Lucene's QueryBuilder."""
    from jnius import JavaClass, JavaMethod, MetaJavaClass

    class Query(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "org/apache/lucene/search/Query"
        toString = JavaMethod("(Ljava/lang/String;)Ljava/lang/String;")  # noqa: N815

    class QueryBuilder(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "org/apache/lucene/util/QueryBuilder"
        __javaconstructor__ = (("(Lorg/apache/lucene/analysis/Analyzer;)V", False),)
        createPhraseQuery = JavaMethod(  # noqa: N815
            "(Ljava/lang/String;Ljava/lang/String;)Lorg/apache/lucene/search/Query;"
        )

    return QueryBuilder


@lru_cache
def _java() -> _Java:
    """Start the JVM, once. Raises NightshiftError when it does not start."""
    with _starting:
        os.environ["JAVA_HOME"] = str(find_java().parent.parent)  # jnius reads it when it is imported
        jar, before = str(anserini_jar()), locale.setlocale(locale.LC_ALL)
        try:
            import jnius_config

            if not jnius_config.vm_running:
                jnius_config.set_classpath(jar)
                # -Xrs leaves signals to Python. One small heap: terms live for microseconds. Java limits the stack of
                # this thread to -Xss, 1 MB by default, in which Python 3.12 crashes when it parses nested JSON.
                jnius_config.add_options(
                    f"-Xmx{HEAP_MB}m", "-Xss8m", "-Xrs", "-XX:-UsePerfData", "-XX:+UseSerialGC", "-Xshare:auto"
                )
            return _Java()
        except Exception as error:  # jnius raises what its Java finder raises
            raise NightshiftError(f"Java does not start in this process: {error}. Run `nightshift doctor`.") from error
        finally:
            locale.setlocale(locale.LC_ALL, before)  # Java sets it for the whole process
