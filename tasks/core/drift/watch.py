"""Check for drift, nightly or hourly, and decide the action of the next night.

The state between checks is one file, `drift/state.json` in the home. It is replaced atomically under a lock, so nightly
and hourly checks can share it, and a killed check leaves either the old or the new state. A trigger is recorded before
the retrain starts. If the check is killed in between, no retrain starts; drift that persists triggers again after the
cooldown.
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
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.base.settings import Settings
from tasks.core.drift.decide import (
    VERSION,
    Baseline,
    LogPosition,
    State,
    decide,
    is_window_due,
    looks_damaged,
    low_threshold,
    recall_threshold,
)
from tasks.core.drift.evidence import alarm_line, total
from tasks.core.drift.findings import LISTED, Action, Changes, Drift, Measurement
from tasks.core.drift.new_queries import Examination, ServingRelease, examine, new_queries, skip_known, unseen_terms
from tasks.core.drift.new_topics import LABELS, Topics, advise, write_labels
from tasks.core.drift.query_log import LogReader, log
from tasks.core.drift.recalibrate import with_reference
from tasks.core.drift.sample import Sample
from tasks.core.drift.verdict import (
    changed_settings,
    compare_snapshots,
    decide_action,
    describe_damage,
    describe_drift,
    explanation_fields,
    first_night,
    query_signals,
    without_snapshot,
)
from tasks.core.drift.window_queries import Repetition, read_windows, rescore, write_windows
from tasks.core.snapshot.reader import load_snapshot
from tasks.core.text.tombstones import read_tombstones

UNFAMILIAR = Path("drift") / "unfamiliar-queries.jsonl"  # in the home
SHOWN = 30  # windows in a result
LABELS_ARRIVED = "drift of queries: the requested labels arrived"
NONE = np.zeros(0, np.uint64)
UPGRADE = {"version": VERSION, "reference": ""}  # of version 1: the baseline starts again, all else stays
STATE_LOST = "baseline, confirmation, cooldown, and budget then start again"


def watch(
    settings: Settings,
    serving: Release | None,
    snapshot: Snapshot,
    recipe: str,
    now: datetime,
    *,
    remember: bool = True,
    unless: Action | None = None,
) -> Drift:
    """Compare the source and the query log with the serving release, and save the state.

    A window is judged when there are `[drift] min_queries` new queries and `window_hours` have passed since the last
    window. Until then, queries accumulate.

    Args:
        settings: the settings; the state is stored in the home.
        serving: the serving release, if any.
        snapshot: of the source as it is now.
        recipe: digest of the settings that shape an encoder.
        now: the current time, with time zone.
        remember: false: write nothing, so the next check judges the same queries.
        unless: action after which nothing is written, either.

    Returns:
        The action with its cause and signals.

    Raises:
        Mismatch: the state has another version.
        BadInput: the query log is missing.
    """
    if serving is None:
        return first_night(snapshot)
    serving_snapshot = find_artifact(settings.home, Snapshot, serving.snapshot)
    if serving_snapshot is None:
        return without_snapshot(serving, snapshot)
    served = ServingRelease(settings.home, serving, serving_snapshot, settings.embedding)
    file = state_file(settings.home)
    with exclusive(file.with_suffix(".lock")):
        check = Check(settings.drift, served, snapshot, read_state(file), now)
        drift = check.decide_action(recipe, changed_settings(serving.settings, resolve(settings)))
        remember = remember and drift.verdict is not unless
        unfamiliar = settings.home / UNFAMILIAR
        if remember and check.state.reference != check.before.reference:
            unfamiliar.unlink(missing_ok=True)  # of another release
        if remember and check.unfamiliar:
            write_text(unfamiliar, "".join(map(_format_unfamiliar, check.unfamiliar)))
        if remember and check.topics is not None:
            write_labels(settings.home, check.topics)
        if remember and check.texts:
            write_windows(settings.home, check.windows, check.state.number, check.texts)
        if remember and check.state != check.before:
            write_record(file, check.state.model_dump(mode="json"))
    if not remember:
        drift = drift.model_copy(update={"label_file": None, "advice": ()})  # a check that writes nothing
    return with_unfamiliar(settings.home, drift)


def _format_unfamiliar(unfamiliar: tuple[str, float]) -> str:
    query, score = unfamiliar
    return json.dumps({"query": query, "score": round(score, 4)}, ensure_ascii=False) + "\n"


def with_unfamiliar(home: Path, drift: Drift) -> Drift:
    """Add the queries to label, from the last fired window, if the action is LABEL."""
    file = (home / UNFAMILIAR).absolute()
    if drift.verdict is not Action.LABEL or not file.exists():
        return drift
    with file.open(encoding="utf-8") as lines:
        queries = tuple(json.loads(line)["query"] for line in islice(lines, LISTED))
    return drift.model_copy(update={"unfamiliar": drift.unfamiliar or queries, "unfamiliar_file": file})


def state_file(home: Path) -> Path:
    """Return the path of the state file."""
    return home / "drift" / "state.json"


def read_state(file: Path) -> State:
    """Read the state; return an empty state if the file is missing, or damaged and now set aside.

    Raises:
        Mismatch: the state has another version.
    """
    try:
        fields = read_record(file)
        if fields.get("version", VERSION) not in (1, VERSION):
            raise Mismatch(
                f"{file}: version {fields['version']}, expected {VERSION}. Restore it from a backup, or move it away: "
                f"{STATE_LOST}."
            )
        return State.model_validate(fields | (UPGRADE if fields.get("version") == 1 else {}))
    except FileNotFoundError:
        return State()
    except (Damaged, ValidationError) as error:
        set_aside(file, f"{file}: damaged ({' '.join(str(error).split())}); {STATE_LOST}")
        return State()


class Check:
    """One drift check: the previous state, the new state, and the queries behind it."""

    def __init__(
        self, settings: DriftSettings, served: ServingRelease, snapshot: Snapshot, state: State, now: datetime
    ) -> None:
        self.settings, self.served, self.snapshot, self.now = settings, served, snapshot, now
        self.before = state
        self.windows = read_windows(served.home)
        reference = served.reference.receipt.digest
        earlier = rescore(served, self.windows) if state.reference not in ("", reference) else {}
        self.state = with_reference(state, reference, earlier)
        self.repetition = Repetition(self.windows)
        self.fresh: dict[str, int] = {}
        self.texts: list[str] = []  # of the window
        self.topics: Topics | None = None  # of a window with signs of drift
        self.unfamiliar: list[tuple[str, float]] = []  # queries of a fired window, with scores

    def decide_action(self, recipe: str, changed: str) -> Drift:
        """Judge a window if one is due and complete, and combine it with the changes of the data."""
        data = compare_snapshots(self.served, self.snapshot, recipe, self.settings, changed)
        baseline = self.state.baseline
        examination = self._examine_window()
        measured = None if examination is None else examination.measured
        self.state, decision = decide(self.state, measured, self.now, self.settings)
        suspect_reason = self._find_damage(measured, baseline)
        query_fields: dict[str, Any] = {}
        if examination is not None:
            low = low_threshold(baseline, examination.measured.queries, examination.measured.held_out, self.settings)
            recall = recall_threshold(baseline, examination.measured, self.settings)
            query_fields = explanation_fields(examination, query_signals(examination, low, recall, self.settings))
            last = self.state.windows[-1]
            if last.drifted:
                self.unfamiliar = examination.unfamiliar
                query_fields |= self._topic_fields(examination, data.changes)
        labels_arrived = self.state.labels_wanted and data.new_pairs
        query_drift = LABELS_ARRIVED if labels_arrived else describe_drift(decision, query_fields.get("signals", ()))
        drift = decide_action(
            data,
            self.fresh,
            suspect_reason=suspect_reason,
            query_drift=query_drift,
            trigger=decision.trigger or labels_arrived,
            held=decision.held,
            window=self.state.number,
            windows=self.state.windows[-SHOWN:],
            evidence=self.state.windows[-1].evidence if decision.trigger else total(self.state.evidence),
            line=alarm_line(self.settings),
            **query_fields,
        )
        wanted = drift.verdict is Action.LABEL or (self.state.labels_wanted and drift.verdict is not Action.RETRAIN)
        self.state = self.state.model_copy(update={"labels_wanted": wanted})
        return drift

    def _topic_fields(self, examination: Examination, changes: Changes) -> dict[str, Any]:
        """Return the fields of `Drift` about new topics."""
        topics = Topics(self.served, examination, self.settings.recall_effect)
        if not len(topics.rows):
            return {}
        self.topics = topics
        described, file = topics.describe(), (self.served.home / LABELS).absolute()
        return {"topics": described, "advice": advise(described, changes, file), "label_file": file}

    def _examine_window(self) -> Examination | None:
        """Examine the new queries if there are enough and a window is due; else return None."""
        if not is_window_due(self.state, self.settings.max_queries, self.now, self.settings):
            return None  # too early for a window of any size
        sample = Sample(self.settings.max_queries, seed=self.state.number)
        sample.add(self._count("snapshot", new_queries(self.served, self.snapshot, self._seen_snapshot())))
        position = self.state.log
        if self.settings.queries is not None:
            reader = LogReader(self._log_position(self.settings.queries))
            forgotten = read_tombstones(self.served.home)
            texts = (text for text in reader.texts() if not (forgotten and forgotten.match_text(text)))
            sample.add(self._count("log", skip_known(self.served.reference, texts, NONE)))
            position = reader.position
        if not is_window_due(self.state, len(sample), self.now, self.settings):
            return None
        self.state = self.state.model_copy(update={"consumed": self.snapshot.digest, "log": position})
        self.texts = sample.texts
        examination = examine(self.served, self.snapshot, self.texts, self.settings)
        sizes = {window.number: window.queries for window in self.state.windows}
        repeats = self.repetition.find(len(self.texts), sizes)
        if repeats:
            log.warning("New queries repeat those of window %d, so they do not count. Check the query log.", repeats)
        examination.measured = examination.measured.model_copy(update={"repeats": repeats})
        return examination

    def _seen_snapshot(self) -> Snapshot | None:
        """Return the snapshot whose queries were judged already, if any."""
        if not self.state.consumed:
            return None
        try:
            return load_snapshot(self.served.home, self.state.consumed)
        except NightshiftError:
            log.warning(
                "Snapshot %s was removed: all queries of the current snapshot count as seen", self.state.consumed
            )
            self.state = self.state.model_copy(update={"consumed": self.snapshot.digest})
            return self.snapshot

    def _log_position(self, path: Path) -> LogPosition:
        """Return the position up to which the log was read; the start if the path changed."""
        position = self.state.log
        if position is not None and Path(position.path).absolute() == path.absolute():
            return position
        return LogPosition(path=str(path))

    def _count(self, name: str, texts: Iterator[str]) -> Iterator[str]:
        self.fresh[name] = 0
        for text in self.repetition.watch(texts):
            self.fresh[name] += 1
            yield text

    def _find_damage(self, measurement: Measurement | None, baseline: Baseline) -> str:
        """Return why the queries are suspect: those of the window, or all new queries of the snapshot; empty if not.

        Queries of the snapshot are searched only if their terms are suspect.
        """
        if measurement is not None and looks_damaged(measurement, baseline, self.settings):
            return describe_damage(measurement)
        last = self.state.windows[-1] if self.state.windows else None
        if last is not None and last.suspect and last.snapshot == self.snapshot.digest:
            return f"window {last.number} was suspect"
        sample = Sample(self.settings.max_queries, seed=0)
        sample.add(new_queries(self.served, self.snapshot))
        if len(sample) < self.settings.min_queries:
            return ""
        share = unseen_terms(self.served, self.snapshot, sample.texts, self.settings)
        if share <= self.served.reference.receipt.unseen_terms + self.settings.unseen_terms:
            return ""
        measured = examine(self.served, self.snapshot, sample.texts, self.settings).measured
        return describe_damage(measured) if looks_damaged(measured, baseline, self.settings) else ""
