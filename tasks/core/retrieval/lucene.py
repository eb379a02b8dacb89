"""Program that answers BM25 queries from standard input, one JSON document per line, in a long-running JVM.

`bm25_searcher.py` starts it in a child process, which loads the JVM; never import it. It exits when its standard input
closes.
Arguments: jar, index folder, stemmer, k1, b, heap in MiB.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def serve(jar: str, index: str, stemmer: str, k1: str, b: str, heap_mb: str) -> None:
    """Answer each line `{"queries": […], "depth": n}` with a list of [document, score] for each query, best first."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keep Java's own output out of the answers
    search = _searcher(jar, index, stemmer, float(k1), float(b), int(heap_mb))
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        depth = request["depth"]
        results = [[(int(hit.docid), hit.score) for hit in search(query, depth)] for query in request["queries"]]
        print(json.dumps(results), file=answers, flush=True)


def _searcher(jar: str, index: str, stemmer: str, k1: float, b: float, heap_mb: int) -> Any:
    import jnius_config

    jnius_config.set_classpath(jar)
    jnius_config.add_options(f"-Xmx{heap_mb}m", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Xshare:auto")
    from jnius import JavaClass, JavaField, JavaMethod, JavaStaticMethod, MetaJavaClass

    # Declared explicitly, because jnius takes seconds to discover the methods of all related classes.
    class ScoredDoc(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "io/anserini/search/ScoredDoc"
        docid = JavaField("Ljava/lang/String;")
        score = JavaField("F")

    class English(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "io/anserini/analysis/DefaultEnglishAnalyzer"
        newStemmingInstance = JavaStaticMethod(  # noqa: N815
            "(Ljava/lang/String;)Lio/anserini/analysis/DefaultEnglishAnalyzer;"
        )

    class SimpleSearcher(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "io/anserini/search/SimpleSearcher"
        __javaconstructor__ = (("(Ljava/lang/String;)V", False),)
        set_analyzer = JavaMethod("(Lorg/apache/lucene/analysis/Analyzer;)V")
        set_bm25 = JavaMethod("(FF)V")
        search = JavaMethod("(Ljava/lang/String;I)[Lio/anserini/search/ScoredDoc;")

    searcher = SimpleSearcher(index)
    searcher.set_analyzer(English.newStemmingInstance(stemmer))
    searcher.set_bm25(k1, b)
    return searcher.search


if __name__ == "__main__":
    serve(*sys.argv[1:])
