"""While the pointer moves, each query is answered by one release only."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

from release_fixtures import everywhere, pairs
from release_world import HashingEncoder, as_text, release_night

from tasks.core.release.history import serving
from tasks.core.release.rollback import rollback
from tasks.core.search.searcher import Searcher

QUERIES = ["lamp river n3", "violin harbour n8", "entry 40 copper"]

READS = """
import json, sys
sys.path.insert(0, sys.argv[2])
from release_world import HashingEncoder, settings_from
from tasks.core.search.searcher import Searcher
queries = json.loads(sys.argv[3])
with Searcher.open(settings_from(sys.argv[1]), HashingEncoder) as searcher:
    print("ready", flush=True)
    seen = {}
    for line in sys.stdin:
        searcher.refresh()
        for answer in searcher.search(queries, 10):
            hits = [[hit.passage_id, hit.score] for hit in answer.hits]
            assert seen.setdefault(answer.release + answer.query, hits) == hits
        print(answer.release, flush=True)
"""


def answers(settings):
    with Searcher.open(settings, HashingEncoder) as searcher:
        return searcher.search(QUERIES, 10)


@everywhere
@pairs
def test_twenty_swaps_mix_no_answer(settings, pair):
    right = {}
    for parts in pair:
        release = release_night(settings, **parts).release
        right[release] = answers(settings)
    assert len(right) == 2
    first, second = right.values()
    assert all(left.hits != other.hits for left, other in zip(first, second, strict=True))
    wrong, counted, done = [], dict.fromkeys(right, 0), threading.Event()

    def keep_searching(searcher):
        try:
            while not done.is_set():
                got = searcher.search(QUERIES, 10)
                counted[got[0].release] += 1
                if got != right[got[0].release]:
                    wrong.append(got)
        except Exception as error:
            wrong.append(error)

    with Searcher.open(settings, HashingEncoder) as searcher:
        threads = [threading.Thread(target=keep_searching, args=(searcher,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            current, _ = serving(settings)
            rollback(settings, next(name for name in right if name != current.release))
            assert searcher.refresh()
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(counted.values()) > 0


@everywhere
def test_two_processes_search_while_a_third_publishes(settings):
    first = release_night(settings, seed=1).release
    command = [
        sys.executable,
        "-c",
        READS,
        as_text(settings),
        str(Path(__file__).parents[1] / "fixtures"),
        json.dumps(QUERIES),
    ]
    readers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["ready\n"] * 2
        assert search_in_readers(readers) == [first, first]
        building = threading.Event()
        names = []

        def publish():
            building.set()
            names.append(release_night(settings, seed=2).release)

        publisher = threading.Thread(target=publish)
        publisher.start()
        building.wait()
        while publisher.is_alive():
            assert set(search_in_readers(readers)) <= {first, *names, serving(settings)[0].release}
        publisher.join()
        assert search_in_readers(readers) == [names[0], names[0]]
    finally:
        for reader in readers:
            reader.stdin.close()
            reader.wait(timeout=30)
    assert [reader.returncode for reader in readers] == [0, 0]


def search_in_readers(readers):
    for reader in readers:
        reader.stdin.write("again\n")
        reader.stdin.flush()
    return [reader.stdout.readline().strip() for reader in readers]
