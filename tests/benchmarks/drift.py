"""Error rates of drift detection: false alarms in quiet years, detection of real shifts, and damaged input.

    python tests/benchmarks/drift.py DATA --vectors FOLDER [--draws 100] [--sizes 200 1000 5000] [--seeds 0 1 2 3 4]

DATA contains `medquad`, `scifact`, and `arxiv_titles` in BEIR layout (queries.jsonl, corpus.jsonl, qrels/*.tsv; plain
or gzip). FOLDER caches vectors, so that a second run encodes nothing. The benchmark simulates three worlds. In MedQuAD,
30 % of the topics are held back and arrive later as new topics. In arXiv, the corpus is the abstracts of March to June
2025, and titles of later months are the shift. In the third world, a fifth of the clusters of arXiv titles is held back
with its abstracts. The reference uses held-out queries of the collection, in MedQuAD those of other topics; each night
draws from the remaining queries with replacement. A seed decides what is held back and held out; draws are spread over
all seeds.

Ordinary variation: each night draws its mix of 20 query clusters from a Dirichlet distribution around the usual mix.
With concentration 100, the share of a cluster varies by about half between nights; with 30, by almost its full size;
with 10, clusters come and go. "Weekdays" adds another fixed mix on two nights of seven. The number of queries varies by
a fifth. Every decision comes from `tasks.core.drift.decide` with the measurements of
`tasks.core.drift.statistics.measure` and default settings.

    deviation       standard deviation between windows of the low-score share, and of the mean unfamiliarity
    fired, suspect  windows that pass the threshold of a single window, and windows that are marked suspect
    warm            draws in which a retrain starts within 2, 5, and 10 nights of the shift, after 25 normal nights
    promoted        the same if a new release is promoted between these nights and the shift
    first           the same without any night before: the first release
    suspect         warm draws in which any of the ten nights after the shift is marked suspect
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from drift_worlds import Pool, World, worlds

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.decide import NormalWindow, State, decide, is_window_due
from tasks.core.drift.findings import Measurement
from tasks.core.drift.recalibrate import with_reference
from tasks.core.drift.statistics import measure
from tasks.core.drift.window_queries import QUERIES, WINDOWS

START = datetime(2026, 1, 1, 2, tzinfo=UTC)
USUAL, STRONG, WILD = 100, 30, 10  # concentrations of the nightly mix
SPREAD = 0.2  # of the sizes of nights
WARM = 25  # normal nights before a shift
AFTER = 10  # nights evaluated from the shift on
WITHIN = (2, 5, 10)  # nights
WEEKEND = (5, 6)  # nights of a week with another mix


def main() -> None:
    """Print the tables in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, help="folder with the three collections")
    arguments.add_argument("--vectors", type=Path, required=True, help="cache for vectors")
    arguments.add_argument("--draws", type=int, default=100, help="simulated years or shifts per cell, over all seeds")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[200, 1000, 5000], help="queries per night")
    arguments.add_argument("--worlds", nargs="*", default=[], help="beginnings of names of worlds; default: all")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of worlds and draws")
    arguments.add_argument("--precision", default="openvino-bf16", help="numeric path of the encoder")
    arguments.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="encoder")
    arguments.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other [drift] settings")
    chosen = arguments.parse_args()
    settings = DriftSettings.model_validate({k: json.loads(v) for k, v in (pair.split("=") for pair in chosen.set)})
    chosen.vectors.mkdir(parents=True, exist_ok=True)
    by_name: dict[str, list[Study]] = {}
    for seed in chosen.seeds:
        for world in worlds(chosen.data, chosen.vectors, chosen.precision, chosen.model, seed):
            if not chosen.worlds or world.name.lower().startswith(tuple(chosen.worlds)):
                study = Study(world, settings, max(1, chosen.draws // len(chosen.seeds)), seed)
                by_name.setdefault(world.name, []).append(study)
    for name, studies in by_name.items():
        print(f"\n## {name}\n", *(f"- Seed {study.seed}: {study.world.describe()}" for study in studies), sep="\n")
        print(
            f"\n{tabulate_quiet_years(studies, chosen.sizes)}\n\n{tabulate_shifts(studies, chosen.sizes)}", flush=True
        )


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
    weekdays: bool = False


@dataclass
class Nights:
    """Simulate consecutive nights with the decisions of the product."""

    study: Study
    rng: np.random.Generator
    state: State
    night: int = 0
    waiting: tuple[Pool, ...] = ()
    measured: list[Measurement] = field(default_factory=list)
    sampled: dict[int, Pool] = field(default_factory=dict)  # by number of the window
    weekend: np.ndarray | None = None  # mix

    def next(self, source: Source) -> tuple[bool, bool, bool]:
        """Simulate a night; return whether a retrain starts, a window passed its threshold, and it was suspect."""
        now = START + timedelta(days=self.night)
        self.night += 1
        self.waiting += self.draw(source)
        count = sum(len(pool) for pool in self.waiting)
        settings, previous = self.study.settings, self.state.number
        measurement = None
        if is_window_due(self.state, count, now, settings):
            pool = Pool.joined(self.waiting)
            if count > settings.max_queries:
                pool = pool.at(self.rng.permutation(count)[: settings.max_queries])
            measurement = self._measure(pool)
            self.waiting = ()
            self.measured.append(measurement)
            self.sampled[previous + 1] = pool.at(self.rng.permutation(len(pool))[:QUERIES])
            self.sampled.pop(previous + 1 - WINDOWS, None)
        self.state, decision = decide(self.state, measurement, now, settings)
        fired = self.state.number > previous
        last = self.state.windows[-1] if fired else None
        return decision.trigger, bool(last and last.fired), bool(last and last.suspect)

    def promote(self) -> None:
        """Continue with a new release that scores like the old one."""
        measured = {number: self._measure(pool) for number, pool in self.sampled.items()}
        rescored = {
            number: NormalWindow(queries=window.queries, low=window.low, unfamiliarity=window.unfamiliarity)
            for number, window in measured.items()
        }
        self.state = with_reference(self.state, f"release of night {self.night}", rescored)
        self.waiting = ()

    def _measure(self, pool: Pool) -> Measurement:
        unseen = pool.unseen.sum() / pool.terms.sum()
        reference = self.study.world.reference
        return measure(reference, pool.scores, pool.usual_low, pool.unfamiliarity, pool.judged, unseen)

    def draw(self, source: Source) -> tuple[Pool, ...]:
        """Draw the normal and shifted queries of a night."""
        world, rng = self.study.world, self.rng
        size = max(1, round(source.size * np.exp(SPREAD * rng.standard_normal() - SPREAD**2 / 2)))
        shifted = rng.binomial(size, source.share)
        usual = world.usual_mix
        if source.weekdays and self.night % 7 in WEEKEND:
            if self.weekend is None:
                self.weekend = rng.dirichlet(WILD * usual)
            usual = np.maximum(self.weekend, 1e-4)
        normal = world.normal.at(world.draw(rng.dirichlet(source.concentration * usual), size - shifted, rng))
        if source.shifted is None or not shifted:
            return (normal,)
        return normal, source.shifted.at(rng.integers(0, len(source.shifted), shifted))


def start_nights(study: Study, *key: int) -> Nights:
    """Start nights with an empty state; `key` is part of the seed."""
    return Nights(study, np.random.default_rng([study.seed, *key]), State(reference="r"))


YEARS = {
    "usual variation": (USUAL, False),
    "strong variation": (STRONG, False),
    "wild variation": (WILD, False),
    "weekdays": (USUAL, True),
}


def tabulate_quiet_years(studies: list[Study], sizes: list[int]) -> str:
    """Tabulate years in which only the mix varies: false retrains per year, fired and suspect windows.

    A false retrain is promoted, so it calibrates again.
    """
    lines = [
        "| quiet years | queries/night | false retrains/year | fired | suspect | deviation |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    years = [(study, draw) for study in studies for draw in range(study.draws)]
    for label, (concentration, weekdays) in YEARS.items():
        for size in sizes:
            totals = np.zeros(3)
            windows: list[Measurement] = []
            for study, draw in years:
                nights = start_nights(study, concentration, weekdays, size, draw)
                for _ in range(365):
                    outcome = nights.next(Source(size, concentration, weekdays=weekdays))
                    totals += outcome
                    if outcome[0]:
                        nights.promote()
                windows += nights.measured
            lines.append(
                f"| {label} | {size:,} | {totals[0] / len(years):.2f} | {totals[1] / len(windows):.2%} |"
                f" {totals[2] / len(windows):.2%} | {np.std([window.low for window in windows]):.4f} /"
                f" {np.std([window.unfamiliarity for window in windows]):.3f} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def tabulate_shifts(studies: list[Study], sizes: list[int]) -> str:
    """Tabulate every shift of the world at every size."""
    lines = [
        "| shift | share | queries/night | low scores | unseen terms | warm | promoted | first | suspect |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for number, (name, _, share) in enumerate(studies[0].world.shifts):
        for size in sizes:
            warm, suspect = _simulate_shift(studies, size, number, WARM, promote=False)
            promoted, _ = _simulate_shift(studies, size, number, WARM, promote=True)
            first, _ = _simulate_shift(studies, size, number, 0, promote=False)
            low, unseen = np.mean([_figures(study.world, number) for study in studies], axis=0)
            lines.append(
                f"| {name} | {share:.0%} | {size:,} | {low:.1%} | {unseen:.1%} | {shares_within(warm)} |"
                f" {shares_within(promoted)} | {shares_within(first)} | {suspect:.0%} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def _figures(world: World, number: int) -> tuple[float, float]:
    """Return the low-score share and the unseen-term share of nights with a shift."""
    _, pool, share = world.shifts[number]
    normal, shifted = world.figures(world.normal), world.figures(pool)
    return (1 - share) * normal[0] + share * shifted[0], (1 - share) * normal[1] + share * shifted[1]


def _simulate_shift(
    studies: list[Study], size: int, number: int, before: int, *, promote: bool
) -> tuple[np.ndarray, float]:
    """Return the night of the first retrain in each draw, float64 (draws,), and the share of suspect draws."""
    first, suspects = [], 0
    for study in studies:
        _, pool, share = study.world.shifts[number]
        for draw in range(study.draws):
            nights = start_nights(study, number, size, before, draw)
            for _ in range(before):
                nights.next(Source(size, USUAL))
            nights.waiting = ()
            if promote:
                nights.promote()
            outcomes = np.array([nights.next(Source(size, USUAL, pool, share)) for _ in range(AFTER)])
            first.append(1 + np.argmax(outcomes[:, 0]) if outcomes[:, 0].any() else np.inf)
            suspects += outcomes[:, 2].any()
    return np.array(first), suspects / len(first)


def shares_within(first: np.ndarray) -> str:
    """Format the shares of draws with a retrain within each number of nights."""
    return " / ".join(f"{(first <= nights).mean():.0%}" for nights in WITHIN)


if __name__ == "__main__":
    random.seed(0)
    start = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - start:.0f} s in total")
