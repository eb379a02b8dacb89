"""Analyze texts into index terms with Lucene's analyzers, in this process.

A JVM starts in the process at the first text (0.2 s, about 60 MB) and stays. Analyzing a query takes about 15 µs.
"""

from __future__ import annotations

import locale
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from tasks.core.base.errors import NightshiftError
from tasks.core.retrieval.jvm import anserini_jar, find_java

HEAP_MB = 192
SEPARATOR = "\x1f"  # between the terms of a text; no tokenizer of Lucene keeps it
_starting = threading.Lock()
_attached = threading.local()


class Analyzer:
    """Splits text into terms as the BM25 index of the same language and stemmer does. Thread-safe."""

    def __init__(self, stemmer: str) -> None:
        """Start the JVM if necessary. Raises NightshiftError when Java or Anserini is missing or does not start."""
        self._analyze, self._join, self._analyzer = _java(stemmer)

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, in order; a repeated term is repeated."""
        joined = self.joined_terms(text)
        return joined.split(SEPARATOR) if joined else []

    def joined_terms(self, text: str) -> str:
        """Return the terms of a text joined by `SEPARATOR`; empty if it has no term."""
        _detach_at_end()
        joined: str = self._join(SEPARATOR, self._analyze(self._analyzer, text))
        return joined

    def joined_terms_of(self, texts: Sequence[str]) -> list[str]:
        """Return `joined_terms` of each text."""
        return [self.joined_terms(text) for text in texts]


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
def _java(stemmer: str) -> tuple[Any, Any, Any]:
    """Return Java's `AnalyzerUtils.analyze` and `String.join`, and an analyzer."""
    with _starting:
        os.environ["JAVA_HOME"] = str(find_java().parent.parent)  # jnius reads it when it is imported
        jar, before = str(anserini_jar()), locale.setlocale(locale.LC_ALL)
        try:
            import jnius_config

            if not jnius_config.vm_running:
                jnius_config.set_classpath(jar)
                # -Xrs leaves signals to Python. One small heap: terms live for microseconds.
                jnius_config.add_options(
                    f"-Xmx{HEAP_MB}m", "-Xrs", "-XX:-UsePerfData", "-XX:+UseSerialGC", "-Xshare:auto"
                )
            from jnius import JavaClass, JavaStaticMethod, MetaJavaClass
        except Exception as error:  # jnius raises what its Java finder raises
            raise NightshiftError(f"Java does not start in this process: {error}. Run `nightshift doctor`.") from error
        finally:
            locale.setlocale(locale.LC_ALL, before)  # Java sets it for the whole process

        # Declared explicitly, because jnius takes seconds to discover the methods of all related classes.
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

        return AnalyzerUtils.analyze, String.join, English.newStemmingInstance(stemmer)
