"""Watches for drift from night to night, and from hour to hour: the verdict, with what earlier windows add to it.

All that is remembered is one file, `drift/state.json` below the home. It is replaced in one step and under a lock, so
that nightly and hourly checks share it, and a check that is killed has either happened or not. A trigger is on record
before anything starts because of it: a check that is killed in between starts nothing, and after the cooldown drift
that is still there asks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tasks.core.base.checksums import read_record, set_aside, write_record
from tasks.core.base.errors import Damaged, Mismatch, NightshiftError
from tasks.core.base.files import exclusive, find_artifact, write_text
from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.decide import (
    VERSION,
    Baseline,
    Decision,
    LogPlace,
    State,
    decide,
    is_window_due,
    low_threshold,
    suspect,
    under,
)
from tasks.core.drift.findings import LISTED, Action, Drift, Measurement, Signal
from tasks.core.drift.new_queries import Examination, ServingRelease, examine, new_queries, unknown, unseen_terms
from tasks.core.drift.query_log import Reading, log
from tasks.core.drift.sample import Sample
from tasks.core.drift.verdict import (
    compare_snapshots,
    decide_action,
    describe,
    first,
    incomparable,
    query_signals,
    unknown_words,
    with_explanation,
)
from tasks.core.snapshot.reader import load_snapshot

UNFAMILIAR = Path("drift") / "unfamiliar-queries.jsonl"  # below home
SHOWN = 30  # windows in a verdict
LABELS_CAME = "drift of queries: labels came that a check had asked for"
NONE = np.zeros(0, np.uint64)
FORGOTTEN = "baseline, confirmation, cooldown, and budget then start again"


def watch(
    settings: Settings,
    serving: Release | None,
    snapshot: Snapshot,
    recipe: str,
    now: datetime,
    *,
    remember: bool = True,
) -> Drift:
    """Compare the source and the query log with the serving release, and remember what was seen.

    With `remember` false nothing is written: the next check judges the same queries.

    A window is judged when `[drift] min_queries` new queries have come and `window_hours` have gone by since the last
    one; until then they go on accumulating. `now` is an aware time.

    Raises Mismatch when the state is of another version, BadInput when the query log is not there.
    """
    if serving is None:
        return first(snapshot)
    before = find_artifact(settings.home, Snapshot, serving.snapshot)
    if before is None:
        return incomparable(serving, snapshot)
    served = ServingRelease(settings.home, serving, before, settings.embedding)
    file = state_file(settings.home)
    with exclusive(file.with_suffix(".lock")):
        check = Check(settings, served, snapshot, read_state(file), now)
        drift = check.verdict(recipe)
        unfamiliar = settings.home / UNFAMILIAR
        if remember and check.state.reference != check.before.reference:
            unfamiliar.unlink(missing_ok=True)  # unfamiliar to another release
        if remember and check.unfamiliar:
            write_text(unfamiliar, "".join(map(_line, check.unfamiliar)))
        if remember and check.state != check.before:
            write_record(file, check.state.model_dump(mode="json"))
    return with_unfamiliar(settings.home, drift)


def _line(unfamiliar: tuple[str, float]) -> str:
    query, score = unfamiliar
    return json.dumps({"query": query, "score": round(score, 4)}, ensure_ascii=False) + "\n"


def with_unfamiliar(home: Path, drift: Drift) -> Drift:
    """Add the queries to label, those of the last window that fired, to a decision that asks for labels."""
    file = (home / UNFAMILIAR).absolute()
    if drift.verdict is not Action.LABEL or not file.exists():
        return drift
    with file.open(encoding="utf-8") as lines:
        queries = tuple(json.loads(line)["query"] for line in islice(lines, LISTED))
    return drift.model_copy(update={"unfamiliar": drift.unfamiliar or queries, "unfamiliar_file": file})


def state_file(home: Path) -> Path:
    """Where the state lies."""
    return home / "drift" / "state.json"


def read_state(file: Path) -> State:
    """The state in `file`; an empty one when there is none, or when it is damaged and now set aside.

    Raises Mismatch when it is of another version.
    """
    try:
        fields = read_record(file)
        if fields.get("version", VERSION) != VERSION:
            raise Mismatch(
                f"{file}: of version {fields['version']}, not {VERSION}. Restore it from a backup, or move it away: "
                f"{FORGOTTEN}."
            )
        return State.model_validate(fields)
    except FileNotFoundError:
        return State()
    except (Damaged, ValidationError) as error:
        set_aside(file, f"{file}: damaged ({' '.join(str(error).split())}); {FORGOTTEN}")
        return State()


class Check:
    """One look at the queries."""

    def __init__(
        self, settings: Settings, served: ServingRelease, snapshot: Snapshot, state: State, now: datetime
    ) -> None:
        self.settings, self.dials, self.snapshot, self.now = settings, settings.drift, snapshot, now
        self.served = served
        self.before = state
        self.state = under(state, self.served.known.receipt.digest)
        self.fresh: dict[str, int] = {}
        self.unfamiliar: list[tuple[str, float]] = []  # of a window that fired

    def verdict(self, recipe: str) -> Drift:
        """Judge a window if one is due and full, and put everything together."""
        data = compare_snapshots(self.served, self.snapshot, recipe, self.dials)
        baseline = self.state.baseline
        found = self._window()
        measured = None if found is None else found.measured
        self.state, decision = decide(self.state, measured, self.now, self.dials)
        broken = self._broken(measured, baseline)
        more: dict[str, Any] = {}
        if found is not None:
            threshold = low_threshold(baseline, found.measured.queries, found.measured.held_out, self.dials)
            more = with_explanation(found, query_signals(found, threshold, self.dials))
            last = self.state.windows[-1]
            self.unfamiliar = found.unfamiliar if last.fired or last.worse else []
        labels_came = self.state.labels_wanted and data.new_pairs
        drifting = LABELS_CAME if labels_came else _words(decision, more.get("signals", ()))
        drift = decide_action(
            data,
            self.fresh,
            broken=broken,
            drifting=drifting,
            trigger=decision.trigger or labels_came,
            held=decision.held,
            window=self.state.number,
            windows=self.state.windows[-SHOWN:],
            **more,
        )
        wanted = drift.verdict is Action.LABEL or (self.state.labels_wanted and drift.verdict is not Action.RETRAIN)
        self.state = self.state.model_copy(update={"labels_wanted": wanted})
        return drift

    def _window(self) -> Examination | None:
        """The new queries, once they are enough and it is time."""
        if not is_window_due(self.state, self.dials.max_queries, self.now, self.dials):
            return None  # too early, however many have come
        sample = Sample(self.dials.max_queries, seed=self.state.number)
        sample.add(self._counted("snapshot", new_queries(self.served, self.snapshot, self._seen())))
        place = self.state.log
        if self.dials.queries is not None:
            reading = Reading(self._place(self.dials.queries))
            sample.add(self._counted("log", unknown(self.served.known, reading.texts(), NONE)))
            place = reading.place
        if not is_window_due(self.state, len(sample), self.now, self.dials):
            return None
        self.state = self.state.model_copy(update={"consumed": self.snapshot.digest, "log": place})
        return examine(self.served, self.snapshot, sample.texts, self.dials)

    def _seen(self) -> Snapshot | None:
        """The snapshot whose queries the last windows have seen, if there is one."""
        if not self.state.consumed:
            return None
        try:
            return load_snapshot(self.settings.home, self.state.consumed)
        except NightshiftError:
            log.warning("snapshot %s was removed: the queries of this one count as seen", self.state.consumed)
            self.state = self.state.model_copy(update={"consumed": self.snapshot.digest})
            return self.snapshot

    def _place(self, path: Path) -> LogPlace:
        """How far this log was judged; its start when it is another one than before."""
        place = self.state.log
        if place is not None and Path(place.path).absolute() == path.absolute():
            return place
        return LogPlace(path=str(path))

    def _counted(self, name: str, texts: Iterator[str]) -> Iterator[str]:
        self.fresh[name] = 0
        for text in texts:
            self.fresh[name] += 1
            yield text

    def _broken(self, found: Measurement | None, baseline: Baseline) -> str:
        """Why the queries are suspect: those of this window, or all of this snapshot that the serving one lacks.

        Of the latter only the terms are looked at, unless there is something wrong with those.
        """
        if found is not None and suspect(found, baseline, self.dials):
            return unknown_words(found)
        last = self.state.windows[-1] if self.state.windows else None
        if last is not None and last.suspect and last.snapshot == self.snapshot.digest:
            return f"window {last.number} was suspect"
        sample = Sample(self.dials.max_queries, seed=0)
        sample.add(new_queries(self.served, self.snapshot))
        if len(sample) < self.dials.min_queries:
            return ""
        share = unseen_terms(self.served, self.snapshot, sample.texts, self.dials)
        if share <= self.served.known.receipt.unseen_terms + self.dials.unseen_terms:
            return ""
        whole = examine(self.served, self.snapshot, sample.texts, self.dials).measured
        return unknown_words(whole) if suspect(whole, baseline, self.dials) else ""


def _words(decision: Decision, signals: tuple[Signal, ...]) -> str:
    """What moved in the queries, what it was that did so last, and what holds a retrain back."""
    fired = [describe(one) for one in signals if one.fired and one.name != "unseen_terms"]
    held = [f"no retrain for it: {decision.held}"] if decision.held else []
    return "; ".join([*([decision.cause] if decision.cause else []), *fired, *held])
