"""Reads a source, checks it against the data contracts, and writes the snapshot that the night uses."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from data_contracts.contract import CLICKS, JUDGMENTS, contract_file
from tasks.core.base.duckdb_session import database
from tasks.core.base.errors import BadInput
from tasks.core.base.files import (
    digest_of,
    file_digest,
    files_under,
    find_artifact,
    find_by_key,
    produce,
    read_verified,
    receipts_newest_first,
)
from tasks.core.base.receipts import Ingested, Snapshot
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.contracts_page import PAGE, write_docs
from tasks.core.ingest.decision import contract_tables, decide, log_outcome, validate_source
from tasks.core.ingest.forgotten_rows import ForgottenRows
from tasks.core.ingest.judged_pairs import Merged, describe_pairs, merge_judgments
from tasks.core.ingest.known_results import load_results, save_results
from tasks.core.ingest.quarantine import write_quarantine, write_validation
from tasks.core.ingest.snapshot_writer import write_snapshot
from tasks.core.snapshot.reader import load_snapshot
from tasks.core.sources.feedback_rows import Judgments, find_judgments
from tasks.core.sources.source import Source, find_source
from tasks.core.sources.split_names import known_split
from tasks.core.text.tombstones import read_tombstones

if TYPE_CHECKING:
    pass

_log = logging.getLogger("nightshift.ingest")
_VERSION = 3  # increase when the same source would give other rows
_READING = 2  # increase when refused rows would be accepted, and add the rules that refused them below
_RELAXED_RULES = {"bad_score", "malformed_row", "missing_field", "wrong_type", "passage_id_clean", "query_id_clean"}
REFUSED = "refused"  # folder in the home: quarantines of stopped nights


def ingest(settings: Settings) -> tuple[Ingested, Snapshot]:
    """Read, validate, and store the source of `settings.data`. An unchanged source is not read again.

    Every row is accepted, quarantined, or dropped because it was forgotten. The digest of the snapshot depends only on
    the accepted rows and their splits, so two sources with equal content give one snapshot. The tables are compared
    with the most recent ingest of the same feed, unless `settings.data.compare` is off.

    Raises BadInput when a file is missing or unreadable, when a table has more refused rows than
    `settings.data.max_refused` or changed more than its contract allows, or when no passage, query, or training pair
    is left. The quarantine of such a night is kept in `<home>/refused`. Raises NightshiftError when a contract cannot
    be run.
    """
    source = find_source(settings.data, settings.home)
    judgments = find_judgments(settings.home, settings.feedback.votes)
    written = settings.as_written("data").get("path")
    feed = settings.data.feed or (str(Path(written)) if written else source.name)
    key = _key(settings.home, source.identity, settings.data, judgments)
    identity = digest_of(key)
    previous = _previous_snapshot(settings.home, feed, identity, compare=settings.data.compare)
    kept = settings.home / REFUSED / identity

    def build(folder: Path) -> Mapping[str, Any]:
        fields = _build(folder, source, settings, kept, previous, judgments)
        return {**fields, "feed": feed, "identity": identity, "parents": (previous,) if previous else ()}

    key = dict(key, beside=previous)
    earlier = find_by_key(settings.home, Ingested, key)
    if earlier is not None and _reads_differently_now(settings.home, earlier):
        _log.info(
            "this version accepts rows, or renames splits, that an earlier ingest did not: reading the source again"
        )
        key["reading"] = _READING
    ingested = produce(settings.home, Ingested, key, build)
    if find_artifact(settings.home, Snapshot, ingested.snapshot) is None:
        _log.info("snapshot %s was removed: reading the source again", ingested.snapshot)
        shutil.rmtree(ingested.path)
        ingested = produce(settings.home, Ingested, key, build)
    elif ingested.reused:
        _log.info("source unchanged: reusing snapshot %s", ingested.snapshot)
    if ingested.pairs_from:
        _log.info("%s", describe_pairs(ingested.pairs_from))
    _log.info("results of the data contracts: %s", (ingested.path / PAGE).absolute())
    return ingested, load_snapshot(settings.home, ingested.snapshot)


def find_ingested(home: Path, source: Mapping[str, object], data: DataSettings, votes: int) -> Snapshot | None:
    """Return the snapshot of an earlier ingest of the source with this identity and the judgments of the home.

    Args:
        home: folder of the artifacts, and of the judgments.
        source: identity of the source.
        data: the section `[data]`.
        votes: `[feedback] votes`.
    """
    identity = digest_of(_key(home, source, data, find_judgments(home, votes)))
    earlier = (ingested for ingested in receipts_newest_first(home, Ingested) if ingested.identity == identity)
    return next((find_artifact(home, Snapshot, ingested.snapshot) for ingested in earlier), None)


def _key(
    home: Path, source: Mapping[str, object], data: DataSettings, judgments: Judgments | None
) -> dict[str, object]:
    tables, tombstones = contract_tables(data), read_tombstones(home)
    key: dict[str, object] = {
        "version": _VERSION,
        "source": source,
        "contracts": {table: file_digest(contract_file(table)) for table in tables},
        "settings": data.model_dump(mode="json", include={"seed", "dev_share", "max_refused"}),
        **({} if data.held_out_weight == 1 else {"held_out_weight": data.held_out_weight}),
        **({"clicks": data.clicks.model_dump(mode="json")} if CLICKS in tables else {}),
        **({"forgotten": tombstones.digest} if tombstones else {}),
    }
    if judgments is not None:
        key["judgments"] = [judgments.identity, file_digest(contract_file(JUDGMENTS))]
    return key


def last_ingest(home: Path, feed: str | None = None) -> Ingested | None:
    """Return the most recently used ingest of `feed`, or of any feed; None when there is none."""
    folders = [path for path in (home / Ingested.shelf).glob("[!.]*") if path.is_dir()]
    for path in sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        ingested = read_verified(path, Ingested)
        if ingested is not None and feed in (None, ingested.feed):
            return ingested
    return None


def _reads_differently_now(home: Path, ingested: Ingested) -> bool:
    """Return whether an earlier version refused rows that are accepted now, or used split names that are mapped now."""
    if ingested.reading >= _READING:
        return False
    snapshot = find_artifact(home, Snapshot, ingested.snapshot)
    renamed = snapshot is not None and any(known_split(name) != name for name in snapshot.splits)
    return renamed or any(rule.failed for rule in ingested.rules if rule.rule in _RELAXED_RULES)


def _previous_snapshot(home: Path, feed: str, identity: str, *, compare: bool) -> str | None:
    """Return the digest of the snapshot to compare with. An unchanged source keeps its first comparison."""
    last = last_ingest(home, feed)
    if last is None:
        return None
    if last.identity == identity:
        return last.parents[0] if last.parents else None
    return last.snapshot if compare else None


def _build(
    folder: Path, source: Source, settings: Settings, kept: Path, previous: str | None, judgments: Judgments | None
) -> Mapping[str, Any]:
    scratch = folder / "scratch"
    scratch.mkdir()
    forgotten = ForgottenRows(read_tombstones(settings.home))
    read = source.open(scratch)
    last = read_verified(settings.home / Snapshot.shelf / previous, Snapshot) if previous else None
    with database(scratch) as connection:
        load_results(connection, settings.home)
        source_tallies, rules, notes = validate_source(connection, read, scratch, settings.data, last, forgotten)
        source_tallies = forgotten.count(source_tallies)
        merged = Merged(source_tallies, rules)
        if judgments is not None:
            merged = merge_judgments(connection, judgments, merged, folder, scratch)
        save_results(connection, settings.home)
        tallies, rules = forgotten.count(merged.tallies), merged.rules
        first = write_quarantine(connection, folder, scratch, [tally.table for tally in tallies])
        write_validation(tallies, rules, folder)
        write_docs(folder, source.name, tallies, rules)
        log_outcome(source.name, tallies, rules, first)
        try:
            decide(source_tallies, rules, settings.data, kept, last, first)  # judgments never stop a night
            judged, labeled = judgments is not None, not settings.makes_pairs
            snapshot = write_snapshot(
                connection,
                scratch,
                settings.home,
                judged=judged,
                labeled=labeled,
                has_sources=bool(settings.data.parts),
            )
        except BadInput as error:
            _keep_quarantine(folder, kept)
            error.refused = kept
            raise
    shutil.rmtree(scratch)
    assert sum(tally.quarantined for tally in tallies) == pq.read_metadata(folder / "quarantine.parquet").num_rows
    return {
        "rows": sum(tally.read for tally in tallies),
        "source": source.name,
        "snapshot": snapshot.digest,
        "accepted": sum(tally.accepted for tally in tallies),
        "quarantined": sum(tally.quarantined for tally in tallies),
        "rules": tuple(rules),
        "merged": sum(tally.merged for tally in tallies),
        "reading": _READING,
        "forgotten": forgotten.counts.total(),
        "pairs_from": merged.pairs_from,
        **({"notes": notes} if notes else {}),
    }


def _keep_quarantine(folder: Path, kept: Path) -> None:
    """Copy the quarantine and validation files out of a build that stops."""
    temporary = kept.with_name(f".{kept.name}.{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in files_under(folder):
        if file.parent == folder:
            shutil.copyfile(file, temporary / file.name)
    shutil.rmtree(kept, ignore_errors=True)
    temporary.rename(kept)
