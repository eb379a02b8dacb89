"""Error rates of the gate: promoted regressions, rejected improvements, and false claims of "better".

    python tests/benchmarks/gate.py [--trials 200] [--sizes 50 100 300 1000 3000] [--margins 0.01] [--resamples 1000]

Each trial draws a challenger and a serving release on a number of queries and runs the complete gate, with segments
and floors. nDCG@10 of a query is that of a single relevant passage: 1 / log2(1 + rank), or 0 below rank 10. Both
systems share the difficulty of a query, and part of the rank is independent: a Gaussian copula over the ranks that
encoders reach on documentation and on SciFact. Its correlation makes two systems of equal quality differ as two
trainings of the same recipe do. To plant an effect, all latent scores of the challenger shift until its expected mean
moves by the effect.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from scipy.stats import norm

from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.gate import Decision, Evidence, decide

# Share of queries whose relevant passage has rank 1, 2, … 10; for the rest it ranks lower or is missing.
RANKS = (0.60, 0.12, 0.06, 0.035, 0.025, 0.015, 0.01, 0.01, 0.005, 0.005)
SHARED = 0.95  # correlation of the two systems' latent scores
EFFECTS = (-0.05, -0.02, -0.01, 0.0, 0.01, 0.02, 0.05)
CALIBRATION = 400_000  # queries on which effects are set
VALUES = np.array([0.0, *(1 / np.log2(1 + rank) for rank in range(10, 0, -1))])
CUTS = norm.ppf(1 - np.cumsum(RANKS)[::-1])  # latent score needed for rank 10, 9, … 1


def main() -> None:
    """Print the tables in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--trials", type=int, default=200, help="trials per cell")
    arguments.add_argument(
        "--sizes", type=int, nargs="+", default=[50, 100, 300, 1000, 3000], help="numbers of queries"
    )
    arguments.add_argument("--margins", type=float, nargs="+", default=[GateSettings().margin], help="[gate] margin")
    arguments.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples in each trial")
    chosen = arguments.parse_args()
    print(_describe())
    shifts = {effect: shift_of(effect) for effect in EFFECTS}
    for margin in chosen.margins:
        settings = GateSettings(margin=margin, resamples=chosen.resamples)
        head = " | ".join(f"{effect:+.2f}" if effect else "0" for effect in EFFECTS)
        print(f"\nMargin {margin}: share promoted (share promoted as better), {chosen.trials} trials\n")
        print(f"| queries | identical | {head} |\n|---:|" + "---:|" * (len(EFFECTS) + 1))
        for size in chosen.sizes:
            cells = [_identical_cell(size, chosen.trials, settings)]
            cells += [_cell(size, shift, chosen.trials, settings) for shift in shifts.values()]
            print(f"| {size} | {' | '.join(cells)} |", flush=True)


def pairs(size: int, shift: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw nDCG@10 of challenger and serving release, float64 (size,) each."""
    hardness, own_noise, serving_noise = rng.standard_normal((3, size))
    ours = np.sqrt(SHARED) * hardness + np.sqrt(1 - SHARED) * own_noise + shift
    theirs = np.sqrt(SHARED) * hardness + np.sqrt(1 - SHARED) * serving_noise
    return VALUES[np.searchsorted(CUTS, ours)], VALUES[np.searchsorted(CUTS, theirs)]


def shift_of(effect: float) -> float:
    """Return the shift of the latent score that moves the expected nDCG@10 by `effect`."""
    low, high = -2.0, 2.0
    target = _mean(0.0) + effect
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean(middle) < target else (low, middle)
    return (low + high) / 2


def _mean(shift: float) -> float:
    """Return the expected nDCG@10 of a system whose latent score is N(shift, 1)."""
    at_least = norm.sf(CUTS - shift)
    return float((np.diff(VALUES) * at_least).sum())


def verdicts(size: int, shift: float, trials: int, settings: GateSettings) -> Iterator[Decision]:
    """Yield the decisions of the complete gate on `trials` draws."""
    for trial in range(trials):
        rng = np.random.default_rng([size, trial])
        ours, theirs = pairs(size, shift, rng)
        yield run_gate(ours, theirs, rng, settings.model_copy(update={"seed": trial}))


def run_gate(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator, settings: GateSettings) -> Decision:
    """Run the gate with four segments (two random halvings of the queries) and BM25 far below both systems."""
    halves = [rng.random(len(ours)) < 0.5 for _ in range(2)]
    segments = {f"{number}{side}": half == side for number, half in enumerate(halves) for side in (False, True)}
    floor = _table(theirs * 0.6)
    return decide(Evidence(_table(ours), floor, serving=_table(theirs), segments=segments), settings)


def rates(decisions: list[Decision]) -> tuple[float, float]:
    """Return the share of decisions that promote, and the share that promote as better."""
    better = [decision.promote and decision.reasons[0].startswith("better") for decision in decisions]
    return float(np.mean([decision.promote for decision in decisions])), float(np.mean(better))


def _cell(size: int, shift: float, trials: int, settings: GateSettings) -> str:
    promoted, better = rates(list(verdicts(size, shift, trials, settings)))
    return f"{promoted:.1%} ({better:.1%})"


def _identical_cell(size: int, trials: int, settings: GateSettings) -> str:
    decisions = []
    for trial in range(min(trials, 20)):
        rng = np.random.default_rng([size, trial])
        values = pairs(size, 0.0, rng)[0]
        decisions.append(run_gate(values, values, rng, settings))
    return f"{rates(decisions)[0]:.1%}"


def _describe() -> str:
    ours, theirs = pairs(CALIBRATION, 0.0, np.random.default_rng(0))
    difference = ours - theirs
    return (
        f"Mean nDCG@10 {theirs.mean():.3f}; two systems of equal quality: "
        f"correlation {np.corrcoef(ours, theirs)[0, 1]:.3f}, "
        f"standard deviation of a query's difference {difference.std():.3f}, "
        f"{(difference == 0).mean():.0%} of queries equal."
    )


def _table(values: np.ndarray) -> pa.Table:
    return pa.table({"query_id": np.arange(len(values)).astype(str), "ndcg@10": values})


if __name__ == "__main__":
    main()
