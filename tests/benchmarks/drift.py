"""How often drift is seen when there is some, and when there is none: quiet years, real shifts, damaged input.

    python tests/benchmarks/drift.py DATA --vectors FOLDER [--draws 100] [--sizes 200 1000 5000] [--seed 0]

DATA holds `medquad`, `scifact` and `arxiv_titles` in BEIR layout (queries.jsonl, corpus.jsonl, qrels/*.tsv; gzip is
read as well); FOLDER keeps vectors, so that a second run encodes nothing. Two worlds: MedQuAD without 30 % of its
topics, which come as new ones, and arXiv titles against the abstracts of March to June 2025, for which later months
are new. The reference is made of held-out queries of the world; a night asks some of the others, with replacement.

Benign wobble: a night's mix over 20 clusters of the queries is drawn from a Dirichlet distribution around the usual
one, of the given concentration (at 100 a cluster's share differs by half of itself from night to night, at 30 by almost
all of itself), and its size by a fifth. Every decision is that of `tasks.core.drift.decide`, from figures that
`tasks.core.drift.statistics.measure` gives, with the default settings: 500 queries make a window, so nights of 200 are
judged every third night.

    deviation       standard deviation of the low-score share between windows, and that of the share before it is
                    adjusted to the topics asked about
    retrain in 3    draws in which a retrain starts within three nights of the shift, after 25 normal nights; the shift
                    stays. "cold": after none, as on the first nights of a release
    window          draws in which the first window of the shift passes its threshold
    suspect         draws in which any of the ten nights after the shift is marked suspect; retrain in 10 likewise
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from drift_worlds import Pool, World, worlds

from tasks.core.base.settings import DriftSettings
from tasks.core.drift.decide import State, decide, is_window_due
from tasks.core.drift.findings import Measurement
from tasks.core.drift.statistics import measure

START = datetime(2026, 1, 1, 2, tzinfo=UTC)
USUAL, WILD = 100, 30  # concentrations of the nightly mix
SPREAD = 0.2  # of the sizes of nights
WARM = 25  # normal nights before a shift
AFTER = 10  # nights looked at from the shift on


def main() -> None:
    """Print the tables in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--vectors", type=Path, required=True)
    arguments.add_argument("--draws", type=int, default=100)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[200, 1000, 5000])
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--precision", default="openvino-bf16", help="numeric path of the encoder")
    arguments.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    arguments.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other [drift] settings")
    chosen = arguments.parse_args()
    rules = DriftSettings.model_validate({k: json.loads(v) for k, v in (one.split("=") for one in chosen.set)})
    chosen.vectors.mkdir(parents=True, exist_ok=True)
    for world in worlds(chosen.data, chosen.vectors, chosen.precision, chosen.model, chosen.seed):
        study = Study(world, rules, chosen.draws, chosen.seed)
        print(
            f"\n## {world.name}\n\n{world.described()}\n\n{quiet(study, chosen.sizes)}\n\n{shifts(study, chosen.sizes)}"
        )
        sys.stdout.flush()


@dataclass(frozen=True)
class Study:
    """One world under one set of rules."""

    world: World
    rules: DriftSettings
    draws: int
    seed: int


@dataclass(frozen=True)
class Source:
    """What a night asks: normal queries of a drawn mix, and a share of shifted ones."""

    size: int
    concentration: float
    shifted: Pool | None = None
    share: float = 0.0


@dataclass
class Nights:
    """Goes on from night to night as the product does, from queries that have been asked already."""

    study: Study
    rng: np.random.Generator
    state: State
    night: int = 0
    waiting: tuple[Pool, ...] = ()
    measured: list[Measurement] = field(default_factory=list)

    def next(self, source: Source) -> tuple[bool, bool, bool]:
        """One night: whether a retrain starts, whether a window passed its threshold, whether it was suspect."""
        now = START + timedelta(days=self.night)
        self.night += 1
        self.waiting += _night(self.study.world, source, self.rng)
        count = sum(len(one) for one in self.waiting)
        rules, before = self.study.rules, self.state.number
        found = None
        if is_window_due(self.state, count, now, rules):
            every = Pool.joined(self.waiting)
            if count > rules.max_queries:
                every = every.at(self.rng.permutation(count)[: rules.max_queries])
            unseen = every.unseen.sum() / every.terms.sum()
            found = measure(self.study.world.reference, every.scores, every.usual_low, every.judged, unseen)
            self.waiting = ()
            self.measured.append(found)
        self.state, decision = decide(self.state, found, now, rules)
        new = self.state.number > before
        last = self.state.windows[-1] if new else None
        return decision.trigger, bool(last and last.fired), bool(last and last.suspect)


def _night(world: World, source: Source, rng: np.random.Generator) -> tuple[Pool, ...]:
    size = max(1, round(source.size * np.exp(SPREAD * rng.standard_normal() - SPREAD**2 / 2)))
    other = rng.binomial(size, source.share)
    mix = rng.dirichlet(source.concentration * world.usual_mix)
    counts = rng.multinomial(size - other, mix)
    rows = [rng.choice(members, count) for members, count in zip(world.clusters, counts, strict=True)]
    normal = world.normal.at(np.concatenate(rows))
    if source.shifted is None or not other:
        return (normal,)
    return normal, source.shifted.at(rng.integers(0, len(source.shifted), other))


def _begin(study: Study, *key: int) -> Nights:
    return Nights(study, np.random.default_rng([study.seed, *key]), State(reference="r"))


def quiet(study: Study, sizes: list[int]) -> str:
    """Years in which only the mix moves: retrains a year for nothing, and windows that pass or are suspect."""
    lines = [
        "| quiet years | a night | false retrains | windows that pass | suspect windows | deviation | unadjusted |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, concentration in (("usual wobble", USUAL), ("wild wobble", WILD)):
        for size in sizes:
            seen = np.zeros(3)
            windows: list[Measurement] = []
            for draw in range(study.draws):
                nights = _begin(study, concentration, size, draw)
                for _ in range(365):
                    seen += nights.next(Source(size, concentration))
                windows += nights.measured
            lines.append(
                f"| {label} | {size:,} | {seen[0] / study.draws:.2f} | {seen[1] / len(windows):.2%} |"
                f" {seen[2] / len(windows):.2%} | {np.std([one.low for one in windows]):.4f} |"
                f" {np.std([one.raw_low for one in windows]):.4f} |"
            )
    return "\n".join(lines)


def shifts(study: Study, sizes: list[int]) -> str:
    """Every shift of the world at every size."""
    lines = [
        "| shift | share | a night | low scores | unseen terms | window | retrain in 3 | cold | in 10 | suspect |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number, (name, pool, share) in enumerate(study.world.shifts):
        for size in sizes:
            source = Source(size, USUAL, pool, share)
            warm = list(_shifted(study, source, number, WARM))
            cold = list(_shifted(study, source, number, 0))
            normal, figures = study.world.normal, study.world.figures
            low, unseen = ((1 - share) * figures(normal)[n] + share * figures(pool)[n] for n in range(2))
            lines.append(
                f"| {name} | {share:.0%} | {size:,} | {low:.1%} | {unseen:.1%} | {_share(warm, 'window')} |"
                f" {_share(warm, 'in_3')} | {_share(cold, 'in_3')} | {_share(warm, 'in_10')} |"
                f" {_share(warm, 'suspect')} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True)
class Seen:
    """What happened from the shift on, in one draw."""

    window: bool = False
    in_3: bool = False
    in_10: bool = False
    suspect: bool = False


def _shifted(study: Study, source: Source, number: int, before: int) -> Iterator[Seen]:
    for draw in range(study.draws):
        nights = _begin(study, number, source.size, before, draw)
        for _ in range(before):
            nights.next(Source(source.size, source.concentration))
        nights.waiting = ()
        seen, first = Seen(), nights.state.number + 1
        for night in range(AFTER):
            trigger, fired, suspect = nights.next(source)
            seen = replace(
                seen,
                window=seen.window or (fired and nights.state.number == first),
                in_3=seen.in_3 or (trigger and night < 3),
                in_10=seen.in_10 or trigger,
                suspect=seen.suspect or suspect,
            )
        yield seen


def _share(seen: list[Seen], name: str) -> str:
    return f"{np.mean([getattr(one, name) for one in seen]):.0%}"


if __name__ == "__main__":
    random.seed(0)
    began = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - began:.0f} s in all")
