"""Hybrid search in many threads: the same answers as in one, and no thread stays in the JVM."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from release_world import HashingEncoder, release_night, small, texts

from tasks.core.base.ranking import Mode
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.search.searcher import Searcher

THREADS = 16
QUERIES = [" ".join(row["text"].split()[2:6]) for row in texts(60)]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    settings = small(tmp_path_factory.mktemp("threads") / "var")
    release_night(settings, weight=0.5)
    with Searcher.open(settings, HashingEncoder) as searcher:
        yield searcher


def test_sixteen_threads_get_the_answers_of_one(searcher):
    wanted = [searcher.search(query, 10)[0] for query in QUERIES]
    start = threading.Barrier(THREADS)

    def search(number):
        start.wait()
        order = np.random.default_rng(number).permutation(len(QUERIES))
        return {int(place): searcher.search(QUERIES[place], 10)[0] for place in order}

    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(search, range(THREADS)):
            assert [answers[place] for place in range(len(QUERIES))] == wanted


def test_threads_of_the_first_search_start_one_jvm_and_one_index(tmp_path):
    settings = small(tmp_path / "var")
    release_night(settings, weight=1.0)  # its index is opened by the first query that needs it
    with Searcher.open(settings, HashingEncoder) as searcher, ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda _: searcher.search(QUERIES[:5], mode=Mode.HYBRID), range(THREADS)))
    assert all(answer == answers[0] for answer in answers)


def test_a_thread_that_ends_leaves_the_jvm(searcher):
    from jnius import autoclass

    java_threads = autoclass("java.lang.Thread").activeCount
    analyzer, before, terms = Analyzer("en", "porter"), java_threads(), []
    for _ in range(50):
        thread = threading.Thread(target=lambda: terms.append(analyzer.terms("lamps and rivers")))
        thread.start()
        thread.join()
    assert terms == [["lamp", "river"]] * 50
    assert java_threads() <= before + 2  # a thread of another test may be ending


def test_the_jvm_prints_nothing_and_the_process_ends_while_threads_wait():
    program = """
import threading
from tasks.core.retrieval.analyzer import Analyzer
analyzer = Analyzer("en", "porter")
analyzer.terms("lamps")
never = threading.Event()
for _ in range(3):
    threading.Thread(target=lambda: (analyzer.terms("rivers"), never.wait()), daemon=True).start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
