"""Drift detection compared with published detectors on the same nights.

    python tests/benchmarks/drift_peers.py DATA --vectors FOLDER [--draws 100] [--years 20] [--size 1000]

DATA and FOLDER are those of drift.py, with the same worlds and nights. Every detector reads the same queries:

    Nightshift      `tasks.core.drift.decide` with default settings
    ADWIN, Page-Hinkley, KSWIN
                    river's detectors with default settings, on the scores of single queries in order of arrival, and on
                    the mean score of each night
    KS, PSI         the idea of Evidently: compare the scores of a night with those of the reference; drift if p < 0.05,
                    or if the population stability index over deciles is 0.1 or more
    3 deviations    the idea of NannyML: drift if the mean score of a night is outside the mean of 20 nights by more
                    than three of their standard deviations

    false a year    nights with an alarm in a year with the usual variation of the mix, and with the strong one
    in 2, 5, 10     draws with an alarm within this number of nights of the shift, after 25 normal nights; the detectors
                    start again at the shift if they fired before it
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from drift import STRONG, USUAL, WARM, WITHIN, Nights, Source, Study, shares_within, start_nights
from drift_worlds import Pool, worlds
from river.drift import ADWIN, KSWIN, PageHinkley
from scipy.stats import ks_2samp

from tasks.core.base.sections.drift import DriftSettings

CHUNKS = 20  # nights that set the level of NannyML's idea
DECILES = np.linspace(0, 1, 11)[1:-1]


class Detector(Protocol):
    """A detector of one stream."""

    def night(self, scores: np.ndarray) -> bool:
        """Read the scores of a night; return whether drift is detected."""


class Stream:
    """A detector of river that reads single values."""

    def __init__(self, create: Callable[[], ADWIN | KSWIN | PageHinkley], *, means: bool) -> None:
        self._detector, self._means = create(), means

    def night(self, scores: np.ndarray) -> bool:
        values = [float(scores.mean())] if self._means else scores.tolist()
        detected = False
        for value in values:
            self._detector.update(value)
            detected = detected or self._detector.drift_detected
        return detected


class Compared:
    """A test of each night against the reference."""

    def __init__(self, detects: Callable[[np.ndarray], bool]) -> None:
        self._detects = detects

    def night(self, scores: np.ndarray) -> bool:
        return self._detects(scores)


class Deviations:
    """The mean of a night against those of the first nights."""

    def __init__(self) -> None:
        self._means: list[float] = []

    def night(self, scores: np.ndarray) -> bool:
        mean = float(scores.mean())
        if len(self._means) < CHUNKS:
            self._means.append(mean)
            return False
        return bool(abs(mean - np.mean(self._means)) > 3 * np.std(self._means, ddof=1))


def main() -> None:
    """Print a table in Markdown for each world."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path, help="folder with the three collections")
    arguments.add_argument("--vectors", type=Path, required=True, help="cache for vectors")
    arguments.add_argument("--draws", type=int, default=100, help="shifts")
    arguments.add_argument("--years", type=int, default=20, help="quiet years")
    arguments.add_argument("--size", type=int, default=1000, help="queries per night")
    arguments.add_argument("--seed", type=int, default=0, help="seed of all draws")
    arguments.add_argument("--skip", nargs="*", default=[], help="names of detectors to leave out")
    arguments.add_argument("--worlds", nargs="*", default=["medquad"], help="beginnings of names of worlds")
    chosen = arguments.parse_args()
    for world in worlds(chosen.data, chosen.vectors, "openvino-bf16", "sentence-transformers/all-MiniLM-L6-v2", 0):
        if not world.name.lower().startswith(tuple(chosen.worlds)):
            continue
        study = Study(world, DriftSettings(), chosen.draws, chosen.seed)
        print(f"\n## {world.name}, {chosen.size:,} queries a night\n")
        print("| detector | false a year, usual | strong | 5 % new topics: in 2 / 5 / 10 | 10 %: in 2 / 5 / 10 |")
        print("|---|---:|---:|---:|---:|")
        makers = {name: make for name, make in detectors(study).items() if name not in chosen.skip}
        for name in ("Nightshift", *makers):
            make = makers.get(name)
            usual, strong = (_alarms_a_year(study, make, chosen.size, mix, chosen.years) for mix in (USUAL, STRONG))
            shares = [_detections(study, make, chosen.size, share) for share in (0.05, 0.1)]
            print(f"| {name} | {usual:.2f} | {strong:.2f} | {shares[0]} | {shares[1]} |", flush=True)


def detectors(study: Study) -> Mapping[str, Callable[[], Detector]]:
    """Return a maker of each published detector."""
    reference = study.world.reference_scores
    edges = np.quantile(reference, DECILES)
    usual = np.bincount(np.searchsorted(edges, reference), minlength=10) / len(reference)

    def psi(scores: np.ndarray) -> bool:
        now = np.maximum(np.bincount(np.searchsorted(edges, scores), minlength=10) / len(scores), 1e-4)
        return float(((now - usual) * np.log(now / usual)).sum()) >= 0.1

    return {
        "ADWIN": lambda: Stream(ADWIN, means=False),
        "ADWIN, nights": lambda: Stream(ADWIN, means=True),
        "Page-Hinkley": lambda: Stream(lambda: PageHinkley(mode="down"), means=False),
        "Page-Hinkley, nights": lambda: Stream(lambda: PageHinkley(mode="down"), means=True),
        "KSWIN": lambda: Stream(lambda: KSWIN(seed=0), means=False),
        "KSWIN, nights": lambda: Stream(lambda: KSWIN(seed=0), means=True),
        "KS, p < 0.05": lambda: Compared(lambda scores: bool(ks_2samp(scores, reference).pvalue < 0.05)),
        "PSI of 0.1": lambda: Compared(psi),
        "3 deviations": Deviations,
    }


def _alarms(make: Callable[[], Detector] | None, nights: Nights) -> Callable[[Source], bool]:
    """Return a function that simulates a night and returns whether there is an alarm."""
    if make is None:
        return lambda source: nights.next(source)[0]
    detector = make()

    def night(source: Source) -> bool:
        scores = Pool.joined(nights.draw(source)).scores
        return detector.night(scores[nights.rng.permutation(len(scores))])

    return night


def _alarms_a_year(
    study: Study, make: Callable[[], Detector] | None, size: int, concentration: float, years: int
) -> float:
    alarms = 0
    for year in range(years):
        night = _alarms(make, start_nights(study, year))
        alarms += sum(night(Source(size, concentration)) for _ in range(365))
    return alarms / years


def _detections(study: Study, make: Callable[[], Detector] | None, size: int, share: float) -> str:
    pool = next(pool for name, pool, _ in study.world.shifts if name == "new topics")
    first = np.array(list(_first_alarms(study, make, Source(size, USUAL), Source(size, USUAL, pool, share))))
    return shares_within(first)


def _first_alarms(
    study: Study, make: Callable[[], Detector] | None, normal: Source, shifted: Source
) -> Iterator[float]:
    for draw in range(study.draws):
        night = _alarms(make, start_nights(study, 1, draw))
        for _ in range(WARM):
            night(normal)
        yield next((float(number + 1) for number in range(max(WITHIN)) if night(shifted)), np.inf)


if __name__ == "__main__":
    main()
