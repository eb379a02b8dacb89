"""A hundred swaps between two encoders, modes, or weights, while four threads search: no error, no mixed answer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from release_fixtures import everywhere, pairs
from release_world import HashingEncoder, as_text, release_night, texts, with_milvus

from tasks.core.search.searcher import Searcher

SWAPS, QUERIES, THREADS = 100, 10_000, 4
ASKED = [" ".join(row["text"].split()[:5]) for row in texts(40)]

SWAPPER = """
import sys
sys.path.insert(0, sys.argv[2])
from release_world import settings_from
from tasks.core.release.rollback import rollback
settings = settings_from(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    print(rollback(settings, line.strip()).release, flush=True)
"""


class Load:
    """Search in four threads; compare every answer with the answer of its release alone."""

    def __init__(self, searcher, right):
        self.searcher, self.right = searcher, right
        self.wrong, self.errors, self.counted, self.seconds = [], [], dict.fromkeys(right, 0), []

    def __enter__(self):
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.search, args=(number,)) for number in range(THREADS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def search(self, number):
        n = number
        while not self.over.is_set():
            query, n = ASKED[n % len(ASKED)], n + 1
            start = time.perf_counter()
            try:
                (answer,) = self.searcher.search(query, 10)
            except Exception as error:
                self.errors.append(error)
                continue
            self.seconds.append(time.perf_counter() - start)
            self.counted[answer.release] += 1
            if answer != self.right[answer.release][query]:
                self.wrong.append(answer)

    def until(self, queries):
        while len(self.seconds) < queries:
            time.sleep(0.01)

    def milliseconds(self, percent):
        return 1000 * float(np.percentile(self.seconds, percent))


def own_answers(settings):
    """Return the serving release's answer to every query, without other load."""
    with Searcher.open(settings, HashingEncoder) as searcher:
        return {query: searcher.search(query, 10)[0] for query in ASKED}


@pytest.mark.slow
@everywhere
@pairs
def test_a_hundred_swaps_under_load_cause_no_error_and_mix_no_answer(settings, pair, capsys):
    right = {}
    for parts in pair:
        release = release_night(settings, **parts).release
        right[release] = own_answers(settings)
    first, second = right
    assert all(right[first][query].hits != right[second][query].hits for query in ASKED)
    command = [sys.executable, "-c", SWAPPER, as_text(settings), str(Path(__file__).parents[1] / "fixtures")]
    swapper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with swapper, Searcher.open(with_milvus(settings, notice_seconds=0.02), HashingEncoder) as searcher:
        assert swapper.stdout.readline() == "ready\n"
        with Load(searcher, right) as quiet:
            quiet.until(QUERIES // 3)
        late = []
        with Load(searcher, right) as load:
            for swap in range(SWAPS):
                print((first, second)[swap % 2], file=swapper.stdin, flush=True)
                now = swapper.stdout.readline().strip()
                moved = time.perf_counter()
                while searcher.release != now:
                    assert time.perf_counter() < moved + 30
                    time.sleep(0.002)
                late.append(time.perf_counter() - moved)
                load.until(QUERIES * (swap + 1) // SWAPS)
        swapper.stdin.close()
    ratio = load.milliseconds(99) / quiet.milliseconds(99)
    with capsys.disabled():
        print(
            f"\n{SWAPS} swaps, {len(load.seconds)} queries: {len(load.errors)} errors, {len(load.wrong)} mixed; seen "
            f"after {1000 * np.median(late):.0f} ms; p50 {load.milliseconds(50):.1f} ms (quiet "
            f"{quiet.milliseconds(50):.1f}), p99 {load.milliseconds(99):.1f} ms (quiet {quiet.milliseconds(99):.1f}): "
            f"{ratio:.2f} times"
        )
    assert (quiet.errors + load.errors, quiet.wrong + load.wrong) == ([], [])
    assert len(load.seconds) >= QUERIES
    assert min(load.counted.values()) > QUERIES // 10
    assert ratio <= 4  # an idle machine measures 2; a busy machine varies
