"""Error rates of drift detection: false alarms in quiet years, detection of real shifts, and damaged input.

    python tests/benchmarks/drift.py DATA --vectors FOLDER [--draws 100] [--sizes 200 1000 5000] [--seed 0]

DATA contains `medquad`, `scifact`, and `arxiv_titles` in BEIR layout (queries.jsonl, corpus.jsonl, qrels/*.tsv; plain
or gzip). FOLDER caches vectors, so that a second run encodes nothing. The benchmark simulates two worlds. In MedQuAD,
30 % of the topics are held back and arrive later as new topics. In arXiv, the corpus is the abstracts of March to June
2025, and titles of later months are the shift. The reference uses held-out queries of the collection; each night draws
from the remaining queries with replacement.

Ordinary variation: each night draws its mix of 20 query clusters from a Dirichlet distribution around the usual mix.
With concentration 100, the share of a cluster varies by about half between nights; with 30, by almost its full size.
The number of queries varies by a fifth. Every decision comes from `tasks.core.drift.decide` with the measurements of
`tasks.core.drift.statistics.measure` and default settings. A window needs 500 queries, so nights of 200 queries are
evaluated every third night.

    deviation       standard deviation of the low-score share between windows; "unadjusted": before the share is
                    adjusted for the topics of the queries
    in 3            draws in which a retrain starts within three nights of the shift, after 25 normal nights; the shift
                    stays. "cold": without normal nights before, as in the first nights of a release
    fired, suspect  windows that pass their threshold, and windows that are marked suspect
    window          draws in which the first window of the shift passes its threshold
    in 10           draws in which a retrain starts within ten nights of the shift
    suspect         draws in which any of the ten nights after the shift is marked suspect
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
USUAL, STRONG = 100, 30  # concentrations of the nightly mix
SPREAD = 0.2  # of the sizes of nights
WARM = 25  # normal nights before a shift
AFTER = 10  # nights evaluated from the shift on


def main() -> None:
    """Print the tables in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, help="folder with the three collections")
    arguments.add_argument("--vectors", type=Path, required=True, help="cache for vectors")
    arguments.add_argument("--draws", type=int, default=100, help="simulated years or shifts per cell")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[200, 1000, 5000], help="queries per night")
    arguments.add_argument("--seed", type=int, default=0, help="seed of all draws")
    arguments.add_argument("--precision", default="openvino-bf16", help="numeric path of the encoder")
    arguments.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="encoder")
    arguments.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other [drift] settings")
    chosen = arguments.parse_args()
    settings = DriftSettings.model_validate({k: json.loads(v) for k, v in (pair.split("=") for pair in chosen.set)})
    chosen.vectors.mkdir(parents=True, exist_ok=True)
    for world in worlds(chosen.data, chosen.vectors, chosen.precision, chosen.model, chosen.seed):
        study = Study(world, settings, chosen.draws, chosen.seed)
        print(f"\n## {world.name}\n\n{world.describe()}\n")
        print(f"{tabulate_quiet_years(study, chosen.sizes)}\n\n{tabulate_shifts(study, chosen.sizes)}", flush=True)


@dataclass(frozen=True)
class Study:
    """A world and the drift settings to simulate it with."""

    world: World
    settings: DriftSettings
    draws: int
    seed: int


@dataclass(frozen=True)
class Source:
    """The queries of a night: normal queries of a drawn mix, and a share of shifted queries."""

    size: int
    concentration: float
    shifted: Pool | None = None
    share: float = 0.0


@dataclass
class Nights:
    """Simulate consecutive nights with the decisions of the product."""

    study: Study
    rng: np.random.Generator
    state: State
    night: int = 0
    waiting: tuple[Pool, ...] = ()
    measured: list[Measurement] = field(default_factory=list)

    def next(self, source: Source) -> tuple[bool, bool, bool]:
        """Simulate a night; return whether a retrain starts, a window passed its threshold, and it was suspect."""
        now = START + timedelta(days=self.night)
        self.night += 1
        self.waiting += _draw_night(self.study.world, source, self.rng)
        count = sum(len(pool) for pool in self.waiting)
        settings, previous = self.study.settings, self.state.number
        measurement = None
        if is_window_due(self.state, count, now, settings):
            pool = Pool.joined(self.waiting)
            if count > settings.max_queries:
                pool = pool.at(self.rng.permutation(count)[: settings.max_queries])
            unseen = pool.unseen.sum() / pool.terms.sum()
            measurement = measure(self.study.world.reference, pool.scores, pool.usual_low, pool.judged, unseen)
            self.waiting = ()
            self.measured.append(measurement)
        self.state, decision = decide(self.state, measurement, now, settings)
        fired = self.state.number > previous
        last = self.state.windows[-1] if fired else None
        return decision.trigger, bool(last and last.fired), bool(last and last.suspect)


def _draw_night(world: World, source: Source, rng: np.random.Generator) -> tuple[Pool, ...]:
    size = max(1, round(source.size * np.exp(SPREAD * rng.standard_normal() - SPREAD**2 / 2)))
    shifted = rng.binomial(size, source.share)
    mix = rng.dirichlet(source.concentration * world.usual_mix)
    counts = rng.multinomial(size - shifted, mix)
    rows = [rng.choice(members, count) for members, count in zip(world.clusters, counts, strict=True)]
    normal = world.normal.at(np.concatenate(rows))
    if source.shifted is None or not shifted:
        return (normal,)
    return normal, source.shifted.at(rng.integers(0, len(source.shifted), shifted))


def _start_nights(study: Study, *key: int) -> Nights:
    return Nights(study, np.random.default_rng([study.seed, *key]), State(reference="r"))


def tabulate_quiet_years(study: Study, sizes: list[int]) -> str:
    """Tabulate years in which only the mix varies: false retrains per year, fired and suspect windows."""
    lines = [
        "| quiet years | queries/night | false retrains/year | fired | suspect | deviation | unadjusted |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, concentration in (("usual variation", USUAL), ("strong variation", STRONG)):
        for size in sizes:
            totals = np.zeros(3)
            windows: list[Measurement] = []
            for draw in range(study.draws):
                nights = _start_nights(study, concentration, size, draw)
                for _ in range(365):
                    totals += nights.next(Source(size, concentration))
                windows += nights.measured
            lines.append(
                f"| {label} | {size:,} | {totals[0] / study.draws:.2f} | {totals[1] / len(windows):.2%} |"
                f" {totals[2] / len(windows):.2%} | {np.std([window.low for window in windows]):.4f} |"
                f" {np.std([window.raw_low for window in windows]):.4f} |"
            )
    return "\n".join(lines)


def tabulate_shifts(study: Study, sizes: list[int]) -> str:
    """Tabulate every shift of the world at every size."""
    lines = [
        "| shift | share | queries/night | low scores | unseen terms | window | in 3 | cold | in 10 | suspect |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number, (name, pool, share) in enumerate(study.world.shifts):
        for size in sizes:
            source = Source(size, USUAL, pool, share)
            warm = list(_simulate_shift(study, source, number, WARM))
            cold = list(_simulate_shift(study, source, number, 0))
            normal, figures = study.world.normal, study.world.figures
            low, unseen = ((1 - share) * figures(normal)[n] + share * figures(pool)[n] for n in range(2))
            lines.append(
                f"| {name} | {share:.0%} | {size:,} | {low:.1%} | {unseen:.1%} | {_share(warm, 'window')} |"
                f" {_share(warm, 'in_3')} | {_share(cold, 'in_3')} | {_share(warm, 'in_10')} |"
                f" {_share(warm, 'suspect')} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True)
class Outcome:
    """The decisions after the shift in a draw."""

    window: bool = False
    in_3: bool = False
    in_10: bool = False
    suspect: bool = False


def _simulate_shift(study: Study, source: Source, number: int, before: int) -> Iterator[Outcome]:
    for draw in range(study.draws):
        nights = _start_nights(study, number, source.size, before, draw)
        for _ in range(before):
            nights.next(Source(source.size, source.concentration))
        nights.waiting = ()
        outcome, first = Outcome(), nights.state.number + 1
        for night in range(AFTER):
            trigger, fired, suspect = nights.next(source)
            outcome = replace(
                outcome,
                window=outcome.window or (fired and nights.state.number == first),
                in_3=outcome.in_3 or (trigger and night < 3),
                in_10=outcome.in_10 or trigger,
                suspect=outcome.suspect or suspect,
            )
        yield outcome


def _share(results: list[Outcome], name: str) -> str:
    return f"{np.mean([getattr(result, name) for result in results]):.0%}"


if __name__ == "__main__":
    random.seed(0)
    start = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - start:.0f} s in total")
