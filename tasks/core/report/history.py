"""History of nights: one row per night, including failed nights, in `history.parquet`. The source of trends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.checksums import set_aside
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import MANIFEST, exclusive, read_receipt, sync_folder
from tasks.core.base.receipts import Release
from tasks.core.evaluation.systems import System
from tasks.core.report.night import Night
from tasks.core.report.outcomes import Outcome
from tasks.core.training.route import PastNight, Route

FILE = "history.parquet"
SYSTEMS = (System.CHALLENGER, System.SERVING, System.BASE, System.BM25)  # with a column each
REPORTS = "reports"  # the folder of the pages
PAGE_NAME = "%Y-%m-%dT%H%M%SZ.html"  # when the night began
SCHEMA = pa.schema(
    [
        ("began", pa.timestamp("us", "UTC")),  # identifies the night
        ("ended", pa.timestamp("us", "UTC")),
        ("outcome", pa.string()),  # an Outcome
        ("why", pa.string()),
        ("reason", pa.string()),  # why it ran
        ("release", pa.string()),  # serving release at its end
        ("snapshot", pa.string()),
        ("encoder", pa.string()),  # fingerprint of the challenger
        ("rows_read", pa.int64()),
        ("quarantined", pa.int64()),
        ("passages", pa.int64()),
        ("work", pa.string()),  # an Action
        ("queries", pa.int64()),  # held out
        *((f"{system}_ndcg", pa.float64()) for system in SYSTEMS),
        ("difference", pa.float64()),  # nDCG@10, challenger − serving release
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("embedded", pa.int64()),
        ("avoided", pa.int64()),
        ("made", pa.string()),  # the release that the night made
        ("route", pa.string()),  # a Route
        ("training_seconds", pa.float64()),  # of training, and of embedding with the trained encoder
    ]
)


def record(home: Path, night: Night) -> Path:
    """Write the night's row to the history, replacing an earlier row of the same night; return the file's path.

    The file is replaced atomically.
    """
    path = home / FILE
    with exclusive(home / f".{FILE}.lock"):
        new_row = pa.Table.from_pylist([row_of(night)], SCHEMA)
        # A missing history is rebuilt from the releases, this night's release included: replace that row too.
        created = night.made.created if night.made else ""
        other_rows = [
            row
            for row in read_history(home).to_pylist()
            if row["began"] != night.began and row["began"].isoformat() != created
        ]
        table = pa.concat_tables([pa.Table.from_pylist(other_rows, SCHEMA), new_row])
        temporary = path.with_name(f".{FILE}.{os.getpid()}")
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(home)
    return path


def read_history(home: Path) -> pa.Table:
    """Read all nights in the order in which they were recorded. Columns that an older version did not write are null.

    Renames a damaged history to a backup. Without a history, rebuilds the rows of nights that made a release.
    """
    path = home / FILE
    if not path.exists():
        return pa.Table.from_pylist(_rows_of_releases(home), SCHEMA)
    try:
        stored = pq.read_table(path, page_checksum_verification=True)
        columns = [
            stored[field.name].cast(field.type)
            if field.name in stored.column_names
            else pa.nulls(len(stored), field.type)
            for field in SCHEMA
        ]
        return pa.table(columns, schema=SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        set_aside(path, f"{path}: damaged ({error}). Nights that made no release are lost")
        return read_history(home)


def _rows_of_releases(home: Path) -> list[dict[str, object]]:
    """Build the rows of the nights that made a release, with the columns that a release records."""
    releases = [read_receipt(path.parent, Release) for path in (home / Release.shelf).glob(f"*/{MANIFEST}")]
    pages = sorted(_began(page) for page in (home / REPORTS).glob("????-??-??T??????Z.html"))
    rows: list[dict[str, object]] = []
    for release in sorted(filter(None, releases), key=lambda release: release.generation):
        ended = datetime.fromisoformat(release.created)
        earlier = [began for began in pages if began <= ended]
        scores = dict(zip(SYSTEMS, (release.metrics, release.previous, release.base, release.bm25), strict=True))
        rows.append(
            {
                "began": earlier[-1] if earlier else ended,
                "ended": ended,
                "outcome": Outcome.PROMOTED,
                "reason": release.reason,
                "release": release.release,
                "snapshot": release.snapshot,
                "encoder": release.fingerprint,
                "passages": release.rows,
                **{f"{system}_ndcg": (metrics or {}).get("ndcg@10") for system, metrics in scores.items()},
            }
        )
    return rows


def row_of(night: Night) -> dict[str, object]:
    """Return the night as a flat row of the history."""
    comparisons = night.verdict.comparisons if night.verdict else ()
    gain = next((comparison for comparison in comparisons if comparison.against == "the serving release"), None)
    ingested, challenger = night.ingested, night.figures.get(System.CHALLENGER)
    scores = {
        f"{system}_ndcg": night.figures[system].metrics["ndcg@10"] if system in night.figures else None
        for system in SYSTEMS
    }
    return {
        "began": night.began,
        "ended": night.ended,
        "outcome": night.outcome,
        "why": night.why,
        "reason": night.reason,
        "release": night.serves.release if night.serves else None,
        "snapshot": night.snapshot.digest if night.snapshot else None,
        "encoder": night.encoder.fingerprint if night.encoder else None,
        "rows_read": ingested.rows if ingested else None,
        "quarantined": ingested.quarantined if ingested else None,
        "passages": night.snapshot.rows if night.snapshot else None,
        "work": night.drift.verdict.value if night.drift else None,
        "queries": challenger.rows if challenger else None,
        **scores,
        "difference": gain.difference if gain else None,
        "low": gain.low if gain else None,
        "high": gain.high if gain else None,
        "embedded": night.embeddings.embedded if night.embeddings else None,
        "avoided": night.embeddings.avoided if night.embeddings else None,
        "made": night.made.release if night.made else None,
        "route": night.route.route if night.route else None,
        "training_seconds": training_seconds(night),
    }


def release_made(row: Mapping[str, Any]) -> str | None:
    """Return the release that the night of a history row made. Earlier versions stored it only if it was promoted."""
    made: str | None = row["made"] or (row["release"] if row["outcome"] == Outcome.PROMOTED else None)
    return made


def training_seconds(night: Night) -> float | None:
    """Return the seconds of training, and of embedding the passages with the trained encoder; None without training.

    Work that an interrupted run of the night did counts as well. A full training that continues from a derived encoder
    changes its trunk, too, so the vectors of the trunk are part of its cost.
    """
    if not night.trained:
        return None
    vectors = [night.embeddings]
    if night.route is not None and night.route.route.full:
        vectors.append(night.trunk_vectors)
    return sum(receipt.seconds for receipt in (*night.trained, *vectors) if receipt is not None)


def past_nights(home: Path) -> list[PastNight]:
    """Return the earlier nights that trained an encoder and judged it, for the choice of tonight's route."""
    return [
        PastNight(
            route=Route(row["route"]),
            promoted=row["outcome"] == Outcome.PROMOTED,
            gain=gain_over_base(row[f"{System.CHALLENGER}_ndcg"], row[f"{System.BASE}_ndcg"]),
            seconds=row["training_seconds"] or 0.0,
        )
        for row in read_history(home).to_pylist()
        if row["route"] and row["outcome"] in (Outcome.PROMOTED, Outcome.REJECTED)
    ]


def gain_over_base(challenger: float | None, base: float | None) -> float | None:
    """Return the nDCG@10 of the challenger minus that of the base model; None if a figure is missing."""
    return None if challenger is None or base is None else challenger - base


def find_report(home: Path, run: str | None = None) -> tuple[Path, dict[str, object]]:
    """Find the report of a night.

    Args:
        run: Beginning of the name of a release, for the night that made it, or of the report: 2026-03-01,
            2026-03-01T020000Z. Default: the last night.

    Returns:
        The absolute path of the report, and the night's row in the history, shortened.

    Raises:
        NightshiftError: there is no report yet, or not exactly one report matches `run`.
    """
    pages = sorted((home / REPORTS).glob("[0-9]*.html"))
    if not pages:
        raise NightshiftError(f"no report in {home / REPORTS} yet. `nightshift run` makes the first.")
    rows = {page_name(row["began"]): row for row in read_history(home).to_pylist()}
    made = {release: name for name, row in reversed(rows.items()) if (release := release_made(row))}
    prefix = pages[-1].name
    if run is not None:
        prefix = next((name for release, name in made.items() if release.startswith(run)), run)
    matches = [page for page in pages if page.name.startswith(prefix)]
    if len(matches) != 1:
        problem = f"{len(matches)} reports match" if matches else "no report matches"
        available = ", ".join(page.stem for page in (matches or pages)[-5:])
        raise NightshiftError(f"{run!r}: {problem}. Available: {available}")
    row = rows.get(matches[0].name, {})
    columns = ("began", "ended", "outcome", "why", "release", "snapshot")
    return matches[0].absolute(), {name: _text(row.get(name)) for name in columns}


def page_name(began: datetime) -> str:
    """Return the file name of the report of the night that began at `began`."""
    return f"{began:{PAGE_NAME}}"


def _began(page: Path) -> datetime:
    return datetime.strptime(page.name, PAGE_NAME).replace(tzinfo=UTC)


def _text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
