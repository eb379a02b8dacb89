"""Hides half of each query's positives, mines with the rest, and counts how many hidden ones each filter lets through.

    python tests/benchmarks/leak.py [FOLDER ...] [--source bm25|dense] [--margins 0.8 0.9 ...] [--cross-encoder MODEL]

Each FOLDER is a collection in BEIR layout whose queries are judged exhaustively; a generated one always comes first:
made-up places, eight things to know about each, and every one of them said in five ways, one of them twice, so that
what BM25 ranks high beside the known positives is either another wording of the answer (hidden positives, all known
here) or another fact in like words (true negatives). The encoder is the base model of the settings, not trained on it.

Of the candidates of one retriever, depth 100, as every filter set leaves them:

    leaked      hidden positives among the negatives (8 a query), and their share of the negatives
    let through share of the hidden positives among the candidates that is not refused
    places lost share of the places that BM25 alone fills and this set cannot
    true lost   share of the true negatives among the candidates that is refused

A margin of 95 % of the lowest positive reads "margin 0.95 min". The goal: margin cuts what leaks through BM25 + near
duplicates by half or more, at no more than 10 % of the negatives (places) lost.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

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

Judgements = dict[str, set[str]]
KNOWN = (Reason.KNOWN_POSITIVE, Reason.TEXT_OF_POSITIVE, Reason.TEXT_OF_QUERY)
NEAR = (*KNOWN, Reason.NEAR_DUPLICATE)
ALL = (*NEAR, Reason.ABOVE_MARGIN)


def main() -> None:
    """Study every collection and print a table for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="*", type=Path)
    arguments.add_argument("--source", choices=("bm25", "dense"), default="bm25", help="whose candidates are judged")
    arguments.add_argument("--margins", nargs="+", type=float, default=[0.8, 0.85, 0.9, 0.95, 0.97, 0.99])
    arguments.add_argument("--cross-encoder", default="", help="folder or hub id of a sequence classification model")
    arguments.add_argument("--seed", type=int, default=0, help="of which positives are hidden")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--home", type=Path, help="keep what is made here")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _generate(Path(scratch) / "generated")
        found = {
            folder.name: _study(folder, chosen.home or Path(scratch) / "home", Path(scratch) / f"half-{number}", chosen)
            for number, folder in enumerate([Path(scratch) / "generated", *chosen.folders])
        }
    print(json.dumps(found, indent=2) if chosen.json else "\n\n".join(_table(*item) for item in found.items()))


@dataclass(frozen=True)
class Study:
    """The candidates of all training queries, what the rules know, and which candidates are hidden positives."""

    this: MiningRound
    facts: FilterInputs
    candidates: Candidates
    hidden: np.ndarray  # bool (candidates,)
    hidden_in_all: int
    mining: MiningSettings


def _study(folder: Path, home: Path, half: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    hidden = _hide_half(folder, half, chosen.seed)
    settings = Settings.model_validate(
        {
            "home": home,
            "data": {"format": "beir", "path": half, "compare": False, "dev_share": 1e-9, "max_refused": 1},
            "mining": {"shares": {chosen.source: 1}, "cross_encoder": {"model": chosen.cross_encoder}},
        }
    )
    study = _prepare(settings, ingest(settings)[1], hidden, chosen.source)
    rows = {"BM25 alone" if chosen.source == "bm25" else "dense alone": _fate(study, KNOWN, study.mining)}
    rows["+ near duplicate"] = _fate(study, NEAR, study.mining)
    for over in ("min", "mean"):
        for margin in chosen.margins:
            mining = study.mining.model_copy(update={"margin": margin, "margin_over": over})
            rows[f"+ margin {margin} {over}"] = _fate(study, ALL, mining)
    if chosen.cross_encoder:
        rows["+ margin + cross-encoder"] = _fate(study, ALL, study.mining, asked=True)
    first = next(iter(rows.values()))
    for one in rows.values():
        one["places_lost"] = 1 - one["negatives"] / first["negatives"]
        one["true_lost"] = 1 - one.pop("true_kept") / first["true_negatives"]
    return rows


def _prepare(settings: Settings, snapshot: Snapshot, hidden: Judgements, source: str) -> Study:
    home, mining = settings.home, settings.mining
    encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    embeddings = gather_shards(home, encoder, snapshot, 1)
    asked = queries(snapshot, "train")
    vectors = load_encoder(encoder.path).encode_queries(asked["text"].to_pylist())
    if source == "bm25":
        run = search_bm25(home, build_index(home, snapshot, mining), asked, mining.depth, mining)
    else:
        run = dense_run(home, "train", asked, vectors, embeddings, mining.depth)
    model = mining.cross_encoder.model
    judging = CrossEncoder(find_cross_encoder(mining.cross_encoder), mining.cross_encoder.tokens) if model else None
    texts = open_texts(build_shingles(home, snapshot))
    this = MiningRound(snapshot, 1, asked, {source: run}, {source: 1.0}, embeddings, vectors, texts, mining, judging)
    candidates = Candidates.joined([some for _, some in candidate_batches(this)])
    ids = pq.read_table(snapshot.path / PASSAGES, columns=["passage_id"])["passage_id"].to_pylist()
    names = asked["query_id"].to_pylist()
    pairs = zip(candidates.query.tolist(), candidates.passage.tolist(), strict=True)
    is_hidden = np.array([ids[passage] in hidden.get(names[query], ()) for query, passage in pairs])
    negatives = mine(home, snapshot, [(source, run)], embeddings, vectors, 1, mining)
    study = Study(this, filter_inputs(this), candidates, is_hidden, sum(map(len, hidden.values())), mining)
    _check(study, pq.read_table(negatives.path / NEGATIVES_FILE))
    return study


def _check(study: Study, mined: Any) -> None:
    """No known positive is among the negatives that the whole step mines, and the study below chooses the same."""
    positives = set(zip(study.facts.positive_query.tolist(), study.facts.positive_passage.tolist(), strict=True))
    names = study.this.training_queries["query_id"]
    ids = pq.read_table(study.this.snapshot.path / PASSAGES)["passage_id"]
    rows = zip(index_in(mined["query_id"], names).tolist(), index_in(mined["passage_id"], ids).tolist(), strict=True)
    assert not positives & set(rows), "a known positive is among the negatives"
    asked = study.this.cross_encoder is not None
    assert _fate(study, tuple(RULES), study.mining, asked)["negatives"] == mined.num_rows


def _fate(study: Study, rules: tuple[Reason, ...], mining: MiningSettings, asked: bool = False) -> dict[str, float]:
    refused = np.zeros(len(study.candidates), bool)
    for rule in rules:
        refused |= RULES[rule](study.candidates, study.facts, mining)
    verdict = np.where(refused, 0, KEPT).astype(np.int8)
    shares = np.ones(1)
    if asked:
        ask = cross_encoder_scorer(study.this)
        assert ask is not None
        most = mining.cross_encoder.most
        kept, _ = choose_with_cross_encoder(
            study.candidates, verdict, study.this.texts, shares, mining.per_query, ask, most
        )
    else:
        kept = choose(study.candidates, verdict.copy(), study.this.texts, shares, mining.per_query)
    through = verdict == KEPT
    known = RULES[Reason.KNOWN_POSITIVE](study.candidates, study.facts, mining)
    true = ~study.hidden & ~known
    leaked = int(study.hidden[kept].sum())
    return {
        "negatives": len(kept),
        "leaked": leaked,
        "leak_share": leaked / max(len(kept), 1),
        "hidden": study.hidden_in_all,
        "hidden_candidates": int(study.hidden.sum()),
        "let_through": float(through[study.hidden].mean()),
        "true_negatives": int(true.sum()),
        "true_kept": int(through[true].sum()),
    }


def _hide_half(folder: Path, target: Path, seed: int) -> Judgements:
    """A copy of the collection with half of each query's positives (rounded down), all in one split; the other half."""
    positives: Judgements = {}
    for file in sorted((folder / "qrels").glob("*.tsv")):
        for line in file.read_text(encoding="utf-8").splitlines()[1:]:
            query, passage, score = line.split("\t")
            if float(score) > 0:
                positives.setdefault(query, set()).add(passage)
    draw = random.Random(seed)
    hidden = {query: set(draw.sample(sorted(ids), len(ids) // 2)) for query, ids in sorted(positives.items())}
    (target / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (target / name).symlink_to((folder / name).resolve())
    pairs = [(query, one) for query, ids in positives.items() for one in sorted(ids - hidden[query])]
    _qrels(target, pairs)
    return hidden


def _qrels(folder: Path, pairs: list[tuple[str, str]]) -> None:
    lines = ["query-id\tcorpus-id\tscore", *(f"{query}\t{passage}\t1" for query, passage in pairs)]
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


# A thing to know about a place: the question, and five ways of saying it.
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
ASKED = 400


def _generate(folder: Path) -> None:
    """5,760 passages and 400 queries; everything that answers a query is known, because it was made so."""
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
            said = [f"{one.format(s=subject, **values)}. {draw.choice(ASIDES)}." for one in statements]
            corpus += [*said, f"{said[0]} Updated"]
    asked = draw.sample(sorted(answers), ASKED)
    (folder / "qrels").mkdir(parents=True)
    _lines(folder / "corpus.jsonl", ({"_id": f"p{row}", "title": "", "text": text} for row, text in enumerate(corpus)))
    _lines(folder / "queries.jsonl", ({"_id": f"q{row}", "text": text} for row, text in enumerate(asked)))
    _qrels(folder, [(f"q{row}", passage) for row, text in enumerate(asked) for passage in answers[text]])


def _name(draw: random.Random) -> str:
    return "".join(draw.choice("bdfgklmnprstv") + draw.choice("aeiou") for _ in range(3)).capitalize()


def _lines(file: Path, rows: Iterator[Mapping[str, str]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _table(name: str, rows: dict[str, dict[str, float]]) -> str:
    first = next(iter(rows.values()))
    lines = [
        f"{name}: {first['hidden']} positives hidden, {first['hidden_candidates']} of them among the candidates",
        f"{'filters':<28}{'negatives':>10}{'leaked':>8}{'of negatives':>14}{'let through':>13}{'places lost':>13}"
        f"{'true lost':>11}",
    ]
    for filters, one in rows.items():
        lines.append(
            f"{filters:<28}{one['negatives']:>10,}{one['leaked']:>8,}{one['leak_share']:>14.1%}"
            f"{one['let_through']:>13.1%}{one['places_lost']:>13.1%}{one['true_lost']:>11.1%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
