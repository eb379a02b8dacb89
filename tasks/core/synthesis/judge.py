"""Labels pairs of query and passage with a language model, and compares its labels with those of people.

Judging by a language model: Thomas et al. 2023 (arXiv:2309.10621). Agreement: Cohen's kappa (Cohen 1960).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from tasks.core.base.atomic_files import write_json, write_text
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.synthetic import GenerateSettings
from tasks.core.base.side_files import read_side_file
from tasks.core.snapshot.reader import passages_by_id, qrels, queries
from tasks.core.synthesis.endpoint import Endpoint
from tasks.core.synthesis.generate import LONGEST
from tasks.core.text.synthetic_queries import JUDGED, PATTERN

PROMPT = Path(__file__).with_name("judge_prompt.txt")
_RELEVANT = {"yes": True, "no": False}


class JudgePair(NamedTuple):
    """A query and a passage to judge."""

    query: str
    passage_id: str
    title: str
    text: str


class Agreement(BaseModel):
    """Labels of people and of the model for the same pairs. A pair that no person labeled counts as not relevant."""

    model_config = ConfigDict(frozen=True)

    both: int  # relevant for both
    people: int  # relevant only for people
    model: int  # relevant only for the model
    neither: int

    @property
    def pairs(self) -> int:
        """Number of compared pairs."""
        return self.both + self.people + self.model + self.neither

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa, (p − e) / (1 − e): observed agreement p, expected agreement e of independent labels.

        None if both give all pairs the same label, because chance alone explains that.
        """
        by_people, by_model = self.both + self.people, self.both + self.model
        total = self.pairs
        expected = (by_people * by_model + (total - by_people) * (total - by_model)) / max(1, total) ** 2
        return None if total == 0 or expected == 1 else ((self.both + self.neither) / total - expected) / (1 - expected)

    def __str__(self) -> str:
        kappa = "not defined" if self.kappa is None else f"{self.kappa:.2f}"
        return (
            f"{self.pairs:,} pairs with labels of people: Cohen's kappa {kappa} (relevant for both {self.both:,}, only "
            f"for people {self.people:,}, only for the model {self.model:,}, for neither {self.neither:,})"
        )


def judge_prompts(pairs: Iterable[JudgePair], settings: GenerateSettings) -> dict[JudgePair, str]:
    """Return the prompt of each pair, each pair once. Raises BadInput when the prompt file cannot be read."""
    prompt = settings.judge_prompt
    template = Template(read_side_file(prompt, "prompt") if prompt else PROMPT.read_text("utf-8"))
    return {
        pair: template.safe_substitute(query=pair.query, title=pair.title, text=pair.text[:LONGEST]) for pair in pairs
    }


def judge_pairs(home: Path, prompts: Mapping[JudgePair, str], settings: GenerateSettings) -> dict[JudgePair, bool]:
    """Return the label of each pair. Pairs without an answer, or with one that is neither yes nor no, are left out."""
    answers = Endpoint(home, settings).answer(list(prompts.values()))
    words = {pair: answers.get(prompt, "").strip().lower()[:3].rstrip(".,! \n") for pair, prompt in prompts.items()}
    return {pair: _RELEVANT[word] for pair, word in words.items() if word in _RELEVANT}


def compare_labels(labels: Mapping[JudgePair, bool], people: Mapping[str, set[str]]) -> Agreement:
    """Compare labels with those of people (query -> relevant passages), for the queries that people labeled."""
    both = [(pair.passage_id in people[pair.query], label) for pair, label in labels.items() if pair.query in people]
    return Agreement(
        both=both.count((True, True)),
        people=both.count((True, False)),
        model=both.count((False, True)),
        neither=both.count((False, False)),
    )


def write_labels(
    folder: Path, labels: Mapping[JudgePair, bool], people: Mapping[str, set[str]], agreement: Agreement
) -> int:
    """Write queries.jsonl, qrels/test.tsv (1: relevant, 0: not), and agreement.json; return the number of queries.

    Queries that people labeled are left out, because their labels outrank those of a model. So are queries without a
    relevant passage.
    """
    relevant = {pair.query for pair, label in labels.items() if label and pair.query not in people}
    ids = {query: JUDGED + hashlib.sha256(query.encode()).hexdigest()[:20] for query in sorted(relevant)}
    lines = [json.dumps({"_id": name, "text": query}, ensure_ascii=False) for query, name in ids.items()]
    rows = [f"{ids[p.query]}\t{p.passage_id}\t{int(label)}" for p, label in labels.items() if p.query in ids]
    (folder / "qrels").mkdir(parents=True)
    write_text(folder / "queries.jsonl", "".join(f"{line}\n" for line in lines))
    write_text(folder / "qrels" / "test.tsv", "\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n")
    write_json(folder / "agreement.json", {**agreement.model_dump(), "kappa": agreement.kappa})
    return len(ids)


def positives_of_people(snapshot: Snapshot, texts: Sequence[str]) -> tuple[dict[str, set[str]], list[JudgePair]]:
    """Return the labels of people in a snapshot for the queries among `texts`.

    Returns:
        Query -> ids of its relevant passages, and these pairs with the texts of the passages.
    """
    table = queries(snapshot)
    table = table.filter(pc.is_in(table["text"], value_set=pa.array(list(texts), pa.string())))
    table = table.filter(pc.invert(pc.match_substring_regex(table["query_id"], f"{PATTERN}|^{JUDGED}")))
    text_of = dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    judged = qrels(snapshot)
    judged = judged.filter(pc.is_in(judged["query_id"], value_set=pa.array(text_of, pa.string())))
    by_id = passages_by_id(snapshot, pc.unique(judged["passage_id"]))
    people: dict[str, set[str]] = {}
    for query, passage in zip(judged["query_id"].to_pylist(), judged["passage_id"].to_pylist(), strict=True):
        people.setdefault(text_of[query], set()).add(passage)
    pairs = [JudgePair(query, passage, *by_id[passage]) for query, ids in people.items() for passage in sorted(ids)]
    return people, pairs
