"""Compare the rankings that the service returns with those that the night evaluated.

    NIGHTSHIFT_SETTINGS=night.toml python tests/benchmarks/served_ranking.py [--queries 500] [--batch 1]

Starts the service of the home, sends it the held-out queries of the serving release over HTTP, and compares the first
ten passages with the run that the gate measured. In bf16, a vector depends slightly on the other texts of its batch, so
near ties may swap: --batch sends that many queries in one request.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

from service import service

from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder
from tasks.core.base.settings_file import load_settings
from tasks.core.evaluation.evaluate import read_run, release_run
from tasks.core.release.history import serving
from tasks.core.snapshot.reader import judged, load_snapshot

TOP = 10


def main() -> None:
    """Compare, and print the number of identical lists, and each difference."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--queries", type=int, default=500, help="queries to compare")
    arguments.add_argument("--batch", type=int, default=1, help="queries in a request, at most 64")
    arguments.add_argument("--port", type=int, default=8095, help="port of the service")
    chosen = arguments.parse_args()
    settings = load_settings()
    release, _ = serving(settings)
    assert release is not None, "no release serves"
    split, depth = settings.evaluation.split, settings.evaluation.searched_depth
    queries = judged(load_snapshot(settings.home, release.snapshot), split)
    encoder = load(settings.home, Encoder, release.encoder)
    embeddings = load(settings.home, Embeddings, release.embeddings)
    run = read_run(release_run(settings.home, split, queries, encoder, embeddings, release.ranking, depth))
    evaluated: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in run.select(["query_id", "passage_id", "score"]).to_pylist():
        evaluated[row["query_id"]].append((row["passage_id"], row["score"]))
    queries = queries.slice(0, chosen.queries)
    same = 0
    with service(chosen.port) as request:
        for start in range(0, queries.num_rows, chosen.batch):
            part = queries.slice(start, chosen.batch)
            answers = request({"queries": part["text"].to_pylist(), "k": TOP})["answers"]
            for query, answer in zip(part["query_id"].to_pylist(), answers, strict=True):
                served = [(hit["passage_id"], hit["score"]) for hit in answer["hits"]]
                if [passage for passage, _ in served] == [passage for passage, _ in evaluated[query][:TOP]]:
                    same += 1
                else:
                    _print_difference(query, served, evaluated[query][:TOP])
    share = same / queries.num_rows
    print(f"{release.release} ({release.ranking}): {same} of {queries.num_rows} lists are identical ({share:.1%})")


def _print_difference(query: str, served: list[tuple[str, float]], evaluated: list[tuple[str, float]]) -> None:
    for rank, (ours, theirs) in enumerate(zip(served, evaluated, strict=False), 1):
        if ours[0] != theirs[0]:
            print(f"{query}, rank {rank}: served {ours[0]} {ours[1]:.7f}, evaluated {theirs[0]} {theirs[1]:.7f}")


if __name__ == "__main__":
    main()
