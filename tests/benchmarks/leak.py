"""Hide half of the positives of each query, mine with the rest, and count the hidden positives that each filter passes.

    python tests/benchmarks/leak.py [FOLDER ...] [--source bm25|dense] [--margins 0.8 0.9 ...] [--cross-encoder MODEL]

Each FOLDER is a collection in BEIR layout with exhaustive qrels. A generated collection always comes first: fictional
places with eight facts each, and every fact stated in five wordings and one near duplicate. What BM25 ranks next to
the known positives is then either another wording of the answer (a hidden positive) or another fact in similar words
(a true negative), and all of these are known. The encoder is the base model of the settings, without training.

The table shows the candidates of a retriever at depth 100 after each set of filters:

    leaked      hidden positives among the negatives (8 per query), and their share of the negatives
    let through share of the hidden positives among the candidates that pass
    places lost share of the negatives that BM25 alone selects and this set of filters cannot
    true lost   share of the true negatives among the candidates that are refused

"margin 0.95 min" is a margin of 95 % of the lowest positive. The goal: the margin at least halves the leaks of
BM25 + near duplicate, and loses no more than 10 % of the places.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from beir_files import read_positives, write_qrels, write_rows

from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.ingest.ingest import ingest
from tasks.core.mining.candidates import Candidates, index_in
from tasks.core.mining.choice import choose, choose_with_cross_encoder
from tasks.core.mining.cross_encoder import CrossEncoder, find_cross_encoder
from tasks.core.mining.filters import KEPT, RULES, FilterInputs, Reason
from tasks.core.mining.mine import NEGATIVES_FILE, mine
from tasks.core.mining.passage_texts import build_shingles, open_texts
from tasks.core.mining.round import MiningRound, candidate_batches, cross_encoder_scorer, filter_inputs
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.dense import dense_run
from tasks.core.snapshot.reader import PASSAGES, queries
from tasks.core.training.trainer import base_encoder

Judgments = dict[str, set[str]]
KNOWN = (Reason.KNOWN_POSITIVE, Reason.TEXT_OF_POSITIVE, Reason.TEXT_OF_QUERY)
NEAR, ALL = (*KNOWN, Reason.NEAR_DUPLICATE), (*KNOWN, Reason.NEAR_DUPLICATE, Reason.ABOVE_MARGIN)


def main() -> None:
    """Mine every collection and print a table for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="*", type=Path, help="collections in BEIR layout")
    arguments.add_argument("--source", choices=("bm25", "dense"), default="bm25", help="retriever of the candidates")
    margins = [0.8, 0.85, 0.9, 0.95, 0.97, 0.99]
    arguments.add_argument("--margins", nargs="+", type=float, default=margins, help="[mining] margin")
    arguments.add_argument("--cross-encoder", default="", help="folder or hub id of a sequence classification model")
    arguments.add_argument("--seed", type=int, default=0, help="seed that selects the hidden positives")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--home", type=Path, help="folder that keeps artifacts")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _generate(Path(scratch) / "generated")
        results = {
            folder.name: _measure(folder, Path(scratch), Path(scratch) / f"half-{number}", chosen)
            for number, folder in enumerate([Path(scratch) / "generated", *chosen.folders])
        }
    print(json.dumps(results, indent=2) if chosen.json else "\n\n".join(map(_table, results, results.values())))


@dataclass(frozen=True)
class Study:
    """The candidates of all training queries, the inputs of the filters, and the mask of hidden positives."""

    mining_round: MiningRound
    facts: FilterInputs
    candidates: Candidates
    hidden: np.ndarray  # bool (candidates,)
    hidden_in_all: int
    mining: MiningSettings


def _measure(folder: Path, scratch: Path, half: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    hidden = _hide_half(folder, half, chosen.seed)
    settings = Settings.model_validate(
        {
            "home": chosen.home or scratch / "home",
            "data": {"format": "beir", "path": half, "compare": False, "dev_share": 1e-9, "max_refused": 1},
            "mining": {"shares": {chosen.source: 1}, "cross_encoder": {"model": chosen.cross_encoder}},
        }
    )
    study = _prepare(settings, ingest(settings)[1], hidden, chosen.source)
    rows = {"BM25 alone" if chosen.source == "bm25" else "dense alone": _filter(study, KNOWN, study.mining)}
    rows["+ near duplicate"] = _filter(study, NEAR, study.mining)
    for over in ("min", "mean"):
        for margin in chosen.margins:
            mining = study.mining.model_copy(update={"margin": margin, "margin_over": over})
            rows[f"+ margin {margin} {over}"] = _filter(study, ALL, mining)
    if chosen.cross_encoder:
        rows["+ margin + cross-encoder"] = _filter(study, ALL, study.mining, rescore=True)
    first = next(iter(rows.values()))
    for row in rows.values():
        row["places_lost"] = 1 - row["negatives"] / first["negatives"]
        row["true_lost"] = 1 - row.pop("true_kept") / first["true_negatives"]
    return rows


def _prepare(settings: Settings, snapshot: Snapshot, hidden: Judgments, source: str) -> Study:
    home, mining = settings.home, settings.mining
    encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    embeddings = gather_shards(home, encoder, snapshot, 1)
    train_queries = queries(snapshot, "train")
    vectors = load_encoder(encoder.path).encode_queries(train_queries["text"].to_pylist())
    if source == "bm25":
        run = search_bm25(home, build_index(home, snapshot, mining), train_queries, mining.depth, mining)
    else:
        run = dense_run(home, "train", train_queries, vectors, embeddings, mining.depth)
    section = mining.cross_encoder
    scorer = CrossEncoder(find_cross_encoder(section), section.tokens) if section.model else None
    texts = open_texts(build_shingles(home, snapshot))
    mining_round = MiningRound(
        snapshot, 1, train_queries, {source: run}, {source: 1.0}, embeddings, vectors, texts, mining, scorer
    )
    candidates = Candidates.joined([batch for _, batch in candidate_batches(mining_round)])
    ids = pq.read_table(snapshot.path / PASSAGES, columns=["passage_id"])["passage_id"].to_pylist()
    names = train_queries["query_id"].to_pylist()
    pairs = zip(candidates.query.tolist(), candidates.passage.tolist(), strict=True)
    is_hidden = np.array([ids[passage] in hidden.get(names[query], ()) for query, passage in pairs])
    negatives = mine(home, snapshot, [(source, run)], embeddings, vectors, 1, mining)
    hidden_in_all = sum(map(len, hidden.values()))
    study = Study(mining_round, filter_inputs(mining_round), candidates, is_hidden, hidden_in_all, mining)
    _check(study, pq.read_table(negatives.path / NEGATIVES_FILE))
    return study


def _check(study: Study, mined: Any) -> None:
    """Check that the step mines no known positive, and selects as many negatives as this benchmark."""
    positives = set(zip(study.facts.positive_query.tolist(), study.facts.positive_passage.tolist(), strict=True))
    names = study.mining_round.training_queries["query_id"]
    ids = pq.read_table(study.mining_round.snapshot.path / PASSAGES)["passage_id"]
    rows = zip(index_in(mined["query_id"], names).tolist(), index_in(mined["passage_id"], ids).tolist(), strict=True)
    assert not positives & set(rows), "a known positive is among the negatives"
    rescore = study.mining_round.cross_encoder is not None
    assert _filter(study, tuple(RULES), study.mining, rescore)["negatives"] == mined.num_rows


def _filter(study: Study, rules: tuple[Reason, ...], mining: MiningSettings, rescore: bool = False) -> dict[str, float]:
    refused = np.zeros(len(study.candidates), bool)
    for rule in rules:
        refused |= RULES[rule](study.candidates, study.facts, mining)
    decisions = np.where(refused, 0, KEPT).astype(np.int8)
    shares = np.ones(1)
    texts, per_query = study.mining_round.texts, mining.per_query
    if rescore:
        score = cross_encoder_scorer(study.mining_round)
        assert score is not None
        limit = mining.cross_encoder.most
        selected, _ = choose_with_cross_encoder(study.candidates, decisions, texts, shares, per_query, score, limit)
    else:
        selected = choose(study.candidates, decisions.copy(), texts, shares, per_query)
    passed = decisions == KEPT
    true = ~study.hidden & ~RULES[Reason.KNOWN_POSITIVE](study.candidates, study.facts, mining)
    leaked = int(study.hidden[selected].sum())
    return {
        "negatives": len(selected),
        "leaked": leaked,
        "leak_share": leaked / max(len(selected), 1),
        "hidden": study.hidden_in_all,
        "hidden_candidates": int(study.hidden.sum()),
        "let_through": float(passed[study.hidden].mean()),
        "true_negatives": int(true.sum()),
        "true_kept": int(passed[true].sum()),
    }


def _hide_half(folder: Path, target: Path, seed: int) -> Judgments:
    """Copy a collection with half of the positives of each query, all in the train split; return the hidden half."""
    positives: Judgments = read_positives(folder)
    draw = random.Random(seed)
    hidden = {query: set(draw.sample(sorted(ids), len(ids) // 2)) for query, ids in sorted(positives.items())}
    (target / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (target / name).symlink_to((folder / name).resolve())
    pairs = ((query, passage) for query, ids in positives.items() for passage in sorted(ids - hidden[query]))
    write_qrels(target, "train", pairs)
    return hidden


# Facts about a place: the question, and five wordings of the answer.
FACTS = {
    "in what year was {s} opened": [
        "{s} first let people in during {n}", "the inauguration of {s} took place in {n}",
        "since {n} the public has had access to {s}", "{n} saw the opening of {s}",
        "a mayor cut the ribbon at {s} in {n}",
    ],
    "who designed {s}": [
        "{s} was drawn up by {p}", "the plans for {s} came from the office of {p}",
        "{p} is the architect of {s}", "the shape of {s} is owed to {p}", "{s} is a work of the engineer {p}",
    ],
    "how long is {s}": [
        "{s} measures {n} metres from end to end", "the length of {s} comes to {n} m",
        "walking along all of {s} means {n} metres", "{n} metres lie between both ends of {s}",
        "{s} stretches over {n} metres",
    ],
    "what did it cost to build {s}": [
        "{s} cost {n} thousand crowns", "the bill for the construction of {s} was {n} thousand crowns",
        "{n} thousand crowns were spent on building {s}", "to put up {s} the town paid {n} thousand crowns",
        "the price of {s}, once finished, was {n} thousand crowns",
    ],
    "how many people visit {s} each year": [
        "{s} receives {n} hundred visitors a year", "every year {n} hundred people come to see {s}",
        "the annual attendance of {s} is {n} hundred", "{n} hundred tourists are counted at {s} yearly",
        "in a normal season {s} draws crowds of {n} hundred",
    ],
    "what is {s} made of": [
        "{s} is built of {m}", "{m} is the main material of {s}", "the builders of {s} chose {m}",
        "its walls of {m} make {s} unusual", "for {s} they used mostly {m}",
    ],
    "who owns {s}": [
        "{s} belongs to {p}", "the owner of {s} is {p}", "{p} holds the title to {s}",
        "{s} is the property of {p}", "{p} bought {s} and has kept it",
    ],
    "why was {s} closed": [
        "{s} had to shut because of {d}", "{d} led to the closure of {s}",
        "after {d} nobody was let into {s} any more", "the reason for closing {s} was {d}",
        "{s} has been out of use since {d}",
    ],
}  # fmt: skip
MATERIALS = ["red brick", "granite", "oak", "limestone", "cast iron", "concrete", "sandstone", "basalt"]
DISASTERS = ["a fire", "a flood", "a landslide", "cracks in the roof", "a lost lawsuit", "lack of money"]
ASIDES = ["buses stop close by", "a small shop sells maps", "guides are at hand in summer", "dogs are welcome"]
KINDS = ["the bridge of", "the museum of", "the tower of", "the mill of", "the theatre of"]
PLACES = 120
QUERIES = 400


def _generate(folder: Path) -> None:
    """Generate 5,760 passages and 400 queries with complete qrels."""
    draw = random.Random(11)
    corpus, answers = [], {}
    for subject in [f"{kind} {_name(draw)}" for kind in KINDS for _ in range(PLACES // len(KINDS))]:
        for question, statements in FACTS.items():
            values = {
                "n": draw.randint(101, 1990), "p": f"{_name(draw)} {_name(draw)}", "m": draw.choice(MATERIALS),
                "d": draw.choice(DISASTERS),
            }  # fmt: skip
            numbers = range(len(corpus), len(corpus) + len(statements) + 1)
            answers[question.format(s=subject)] = [f"p{number}" for number in numbers]
            wordings = [f"{text.format(s=subject, **values)}. {draw.choice(ASIDES)}." for text in statements]
            corpus += [*wordings, f"{wordings[0]} Updated"]
    questions = draw.sample(sorted(answers), QUERIES)
    (folder / "qrels").mkdir(parents=True)
    write_rows(
        folder / "corpus.jsonl", ({"_id": f"p{row}", "title": "", "text": text} for row, text in enumerate(corpus))
    )
    write_rows(folder / "queries.jsonl", ({"_id": f"q{row}", "text": text} for row, text in enumerate(questions)))
    write_qrels(
        folder, "train", ((f"q{row}", passage) for row, text in enumerate(questions) for passage in answers[text])
    )


def _name(draw: random.Random) -> str:
    return "".join(draw.choice("bdfgklmnprstv") + draw.choice("aeiou") for _ in range(3)).capitalize()


def _table(name: str, rows: dict[str, dict[str, float]]) -> str:
    first = next(iter(rows.values()))
    lines = [
        f"{name}: {first['hidden']} positives hidden, {first['hidden_candidates']} of them among the candidates",
        f"{'filters':<28}{'negatives':>10}{'leaked':>8}{'of negatives':>14}{'let through':>13}{'places lost':>13}"
        f"{'true lost':>11}",
    ]
    for filters, row in rows.items():
        lines.append(
            f"{filters:<28}{row['negatives']:>10,}{row['leaked']:>8,}{row['leak_share']:>14.1%}"
            f"{row['let_through']:>13.1%}{row['places_lost']:>13.1%}{row['true_lost']:>11.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
