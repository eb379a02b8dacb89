"""One row a night, whatever became of it: `history.parquet`, what trends are drawn from."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.checksums import set_aside
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import MANIFEST, exclusive, read_receipt, sync_folder
from tasks.core.base.receipts import Release
from tasks.core.report.night import Night

FILE = "history.parquet"
REPORTS = "reports"  # the folder of the pages
PAGE_NAME = "%Y-%m-%dT%H%M%SZ.html"  # when the night began
SYSTEMS = ("challenger", "serving", "base", "bm25")
SCHEMA = pa.schema(
    [
        ("began", pa.timestamp("us", "UTC")),  # names the night
        ("ended", pa.timestamp("us", "UTC")),
        ("outcome", pa.string()),  # Promoted, Rejected, Skipped, Suspect, Unlabeled, Failed
        ("why", pa.string()),
        ("reason", pa.string()),  # that it ran
        ("release", pa.string()),  # that served when it ended
        ("snapshot", pa.string()),
        ("encoder", pa.string()),  # fingerprint of the challenger
        ("rows_read", pa.int64()),
        ("quarantined", pa.int64()),
        ("passages", pa.int64()),
        ("work", pa.string()),  # skip, refresh, retrain, suspect
        ("queries", pa.int64()),  # held out
        *((f"{system}_ndcg", pa.float64()) for system in SYSTEMS),
        ("difference", pa.float64()),  # nDCG@10, challenger − serving release
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("embedded", pa.int64()),
        ("avoided", pa.int64()),
    ]
)


def record(home: Path, night: Night) -> Path:
    """Put the night's row into the history, in place of an earlier row of the same night; the file's path.

    The file is replaced in one step that survives a crash.
    """
    path = home / FILE
    with exclusive(home / f".{FILE}.lock"):
        row = pa.Table.from_pylist([row_of(night)], SCHEMA)
        # Without a history, the release that this night made was taken for another night's: it has no page yet.
        made = night.release.created if night.release else ""
        earlier = [one for one in read_history(home).to_pylist() if one["began"].isoformat() != made]
        others = [one for one in earlier if one["began"] != night.began]
        table = pa.concat_tables([pa.Table.from_pylist(others, SCHEMA), row])
        aside = path.with_name(f".{FILE}.{os.getpid()}")
        pq.write_table(table, aside, compression="zstd", write_page_checksum=True)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(home)
    return path


def read_history(home: Path) -> pa.Table:
    """All nights in the order in which they were recorded; columns that an older version did not write are null.

    A damaged history is set aside. Without one, the nights that made a release are rebuilt from the releases.
    """
    path = home / FILE
    if not path.exists():
        return pa.Table.from_pylist(_released(home), SCHEMA)
    try:
        found = pq.read_table(path, page_checksum_verification=True)
        columns = [
            found[field.name].cast(field.type) if field.name in found.column_names else pa.nulls(len(found), field.type)
            for field in SCHEMA
        ]
        return pa.table(columns, schema=SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        set_aside(path, f"{path}: damaged ({error}); nights that made no release are lost")
        return read_history(home)


def _released(home: Path) -> list[dict[str, object]]:
    """The rows of the nights that made a release, as far as its record tells."""
    releases = [read_receipt(path.parent, Release) for path in (home / Release.shelf).glob(f"*/{MANIFEST}")]
    pages = sorted(_began(page) for page in (home / REPORTS).glob("????-??-??T??????Z.html"))
    rows: list[dict[str, object]] = []
    for release in sorted((one for one in releases if one is not None), key=lambda one: one.generation):
        ended = datetime.fromisoformat(release.created)
        earlier = [began for began in pages if began <= ended]
        scores = {
            "challenger": release.metrics, "serving": release.previous, "base": release.base, "bm25": release.bm25
        }  # fmt: skip
        rows.append(
            {
                "began": earlier[-1] if earlier else ended,
                "ended": ended,
                "outcome": "Promoted",
                "reason": release.reason,
                "release": release.release,
                "snapshot": release.snapshot,
                "encoder": release.fingerprint,
                "passages": release.rows,
                **{f"{system}_ndcg": (one or {}).get("ndcg@10") for system, one in scores.items()},
            }
        )
    return rows


def row_of(night: Night) -> dict[str, object]:
    """The night as one flat row."""
    compared = night.verdict.comparisons if night.verdict else ()
    against = next((one for one in compared if one.against == "the serving release"), None)
    ingested, challenger = night.ingested, night.figures.get("challenger")
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
        "difference": against.difference if against else None,
        "low": against.low if against else None,
        "high": against.high if against else None,
        "embedded": night.embeddings.embedded if night.embeddings else None,
        "avoided": night.embeddings.avoided if night.embeddings else None,
    }


def find_report(home: Path, run: str | None = None) -> tuple[Path, dict[str, object]]:
    """The page of a night, and what the history says of it: of the last night, or of the one that `run` names.

    `run` is how the name of a release begins (the night that made it), or the page's: 2026-03-01, 2026-03-01T020000Z.

    Raises:
        NightshiftError: no night yet, or none, or several, that `run` fits.
    """
    pages = sorted((home / REPORTS).glob("[0-9]*.html"))
    if not pages:
        raise NightshiftError(f"no report in {home / REPORTS} yet: nightshift run makes the first")
    rows = {page_name(row["began"]): row for row in read_history(home).to_pylist()}
    made = {
        row["release"]: name for name, row in reversed(rows.items()) if row["release"] and row["outcome"] == "Promoted"
    }
    wanted = pages[-1].name
    if run is not None:
        wanted = next((name for release, name in made.items() if release.startswith(run)), run)
    found = [page for page in pages if page.name.startswith(wanted)]
    if len(found) != 1:
        said = f"{len(found)} reports fit" if found else "no report fits"
        some = ", ".join(page.stem for page in (found or pages)[-5:])
        raise NightshiftError(f"{run!r}: {said}; there are: {some}")
    row = rows.get(found[0].name, {})
    shown = ("began", "ended", "outcome", "why", "release", "snapshot")
    return found[0].absolute(), {name: _text(row.get(name)) for name in shown}


def page_name(began: datetime) -> str:
    """What the page of the night that began then is called."""
    return f"{began:{PAGE_NAME}}"


def _began(page: Path) -> datetime:
    return datetime.strptime(page.name, PAGE_NAME).replace(tzinfo=UTC)


def _text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
