"""How often the gate errs: promotes what is worse, rejects what is as good, calls better what is not.

    python tests/benchmarks/gate.py [--trials 200] [--sizes 50 100 300 1000 3000] [--margins 0.01] [--resamples 1000]

Each trial draws a challenger and a serving release on so many queries and asks the whole gate, slices and floors
included. Values of nDCG@10 are those of one relevant passage: 1 / log2(1 + rank), or 0 below rank 10. How hard a query
is both systems share, a part of the rank is each one's own: a Gaussian copula over the ranks that encoders reach on
documentation and on SciFact, its correlation set so that two systems of equal quality differ as two trainings of one
recipe do. An effect is planted by shifting all of the challenger's ranks until its expected mean has moved so far.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.gate import Decision, Evidence, decide

# Share of queries whose relevant passage stands at rank 1, 2, … 10; the rest find it lower or not at all.
RANKS = (0.60, 0.12, 0.06, 0.035, 0.025, 0.015, 0.01, 0.01, 0.005, 0.005)
SHARED = 0.95  # correlation of the two systems' latent scores
EFFECTS = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05)
CALIBRATION = 400_000  # queries on which effects are set
VALUES = np.array([0.0, *(1 / np.log2(1 + rank) for rank in range(10, 0, -1))])
CUTS = norm.ppf(1 - np.cumsum(RANKS)[::-1])  # latent score needed for rank 10, 9, … 1


def main() -> None:
    """Print the tables in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=200)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 300, 1000, 3000])
    arguments.add_argument("--margins", type=float, nargs="+", default=[GateSettings().margin])
    arguments.add_argument("--resamples", type=int, default=1000, help="of the bootstrap in each trial")
    chosen = arguments.parse_args()
    print(_described())
    shifts = {effect: shift_of(effect) for effect in EFFECTS}
    for margin in chosen.margins:
        rules = GateSettings(margin=margin, resamples=chosen.resamples)
        head = " | ".join(f"{effect:+.2f}" if effect else "0" for effect in EFFECTS)
        print(f"\nMargin {margin}: promoted (of these called better), {chosen.trials} trials\n")
        print(f"| queries | identical | {head} |\n|---:|" + "---:|" * (len(EFFECTS) + 1))
        for size in chosen.sizes:
            cells = [_identical(size, chosen.trials, rules)]
            cells += [_cell(size, shift, chosen.trials, rules) for shift in shifts.values()]
            print(f"| {size} | {' | '.join(cells)} |", flush=True)


def pairs(size: int, shift: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """nDCG@10 of challenger and serving release, float64 (size,) each."""
    hardness, own, other = rng.standard_normal((3, size))
    ours = np.sqrt(SHARED) * hardness + np.sqrt(1 - SHARED) * own + shift
    theirs = np.sqrt(SHARED) * hardness + np.sqrt(1 - SHARED) * other
    return VALUES[np.searchsorted(CUTS, ours)], VALUES[np.searchsorted(CUTS, theirs)]


def shift_of(effect: float) -> float:
    """The shift of the latent score that moves the expected nDCG@10 by `effect`."""
    low, high = -2.0, 2.0
    target = _mean(0.0) + effect
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(middle) < target else (low, middle)
    return (low + high) / 2


def _mean(shift: float) -> float:
    """Expected nDCG@10 of a system whose latent score is N(shift, 1)."""
    at_least = norm.sf(CUTS - shift)
    return float((np.diff(VALUES) * at_least).sum())


def verdicts(size: int, shift: float, trials: int, rules: GateSettings) -> Iterator[Decision]:
    """The whole gate on `trials` draws; four slices, two ways to halve the queries."""
    for trial in range(trials):
        rng = np.random.default_rng([size, trial])
        ours, theirs = pairs(size, shift, rng)
        yield judge(ours, theirs, rng, rules.model_copy(update={"seed": trial}))


def judge(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator, rules: GateSettings) -> Decision:
    """Ask the gate; BM25 is far below both."""
    halves = [rng.random(len(ours)) < 0.5 for _ in range(2)]
    slices = {f"{number}{side}": half == side for number, half in enumerate(halves) for side in (False, True)}
    floor = _table(theirs * 0.6)
    return decide(Evidence(_table(ours), floor, serving=_table(theirs), segments=slices), rules)


def rates(found: list[Decision]) -> tuple[float, float]:
    """Shares of the verdicts that promote, and that promote as better."""
    better = [one.promote and one.reasons[0].startswith("better") for one in found]
    return float(np.mean([one.promote for one in found])), float(np.mean(better))


def _cell(size: int, shift: float, trials: int, rules: GateSettings) -> str:
    promoted, better = rates(list(verdicts(size, shift, trials, rules)))
    return f"{promoted:.1%} ({better:.1%})"


def _identical(size: int, trials: int, rules: GateSettings) -> str:
    found = []
    for trial in range(min(trials, 20)):
        rng = np.random.default_rng([size, trial])
        same = pairs(size, 0.0, rng)[0]
        found.append(judge(same, same, rng, rules))
    return f"{rates(found)[0]:.1%}"


def _described() -> str:
    ours, theirs = pairs(CALIBRATION, 0.0, np.random.default_rng(0))
    apart = ours - theirs
    return (
        f"Mean nDCG@10 {theirs.mean():.3f}; two systems of equal quality: "
        f"correlation {np.corrcoef(ours, theirs)[0, 1]:.3f}, "
        f"standard deviation of a query's difference {apart.std():.3f}, {(apart == 0).mean():.0%} of queries equal."
    )


def _table(values: np.ndarray) -> pa.Table:
    return pa.table({"query_id": np.arange(len(values)).astype(str), "ndcg@10": values})


if __name__ == "__main__":
    main()
