"""Reads a source, holds it against the data contracts, and makes the snapshot that the rest of the night uses."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.contract import TABLES, Contract, ContractError, contract_file, load_contract
from tasks.core.data.accepted import write_accepted
from tasks.core.data.database import database, quoted
from tasks.core.data.quarantine import Tally, count_rows, examples, write_quarantine, write_validation
from tasks.core.data.readers.source import Source, find_source
from tasks.core.data.rows import SCHEMAS
from tasks.core.data.snapshot import load_snapshot
from tasks.core.data.validation import prepare, validate
from tasks.core.errors import BadInput, NightshiftError
from tasks.core.files import digest_of, file_digest, files_under, finished, produce
from tasks.core.receipts import Ingested, RuleCount, Snapshot
from tasks.core.settings import Settings

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("nightshift.ingest")
_VERSION = 1  # raise it when the same source would give other rows
_REFUSED = "refused"  # folder under home: quarantines of nights that were stopped


def ingest(settings: Settings) -> tuple[Ingested, Snapshot]:
    """Read, validate and store the source of `settings.data`; an unchanged source is not read again.

    Every row read is either accepted or in the quarantine. The snapshot is named by the accepted rows and their
    splits alone, so two sources that say the same make one snapshot.
    Raises BadInput when a file is missing or unreadable, when a table has more refused rows than
    `settings.data.max_refused`, or when no passage, query or training pair is left; the quarantine of such a night
    is kept under `<home>/refused`. Raises NightshiftError when a contract cannot be run.
    """
    source = find_source(settings.data)
    key = {
        "version": _VERSION,
        "source": source.identity,
        "contracts": {table: file_digest(contract_file(table)) for table in TABLES},
        "settings": settings.data.model_dump(mode="json", include={"seed", "dev_share", "max_refused"}),
    }
    kept = settings.home / _REFUSED / digest_of(key)

    def build(folder: Path) -> Mapping[str, Any]:
        return _build(folder, source, settings, kept)

    ingested = produce(settings.home, Ingested, key, build)
    if finished(settings.home / Snapshot.shelf / ingested.snapshot, Snapshot) is None:
        _log.info("snapshot %s was pruned: reading the source again", ingested.snapshot)
        shutil.rmtree(ingested.path)
        ingested = produce(settings.home, Ingested, key, build)
    elif ingested.reused:
        _log.info("source unchanged: snapshot %s is used again", ingested.snapshot)
    return ingested, load_snapshot(settings.home, ingested.snapshot)


def _build(folder: Path, source: Source, settings: Settings, kept: Path) -> Mapping[str, Any]:
    contracts = _contracts()
    scratch = folder / "scratch"
    scratch.mkdir()
    read = source.open(scratch)
    with database(scratch) as connection:
        prepare(connection)
        rules: list[RuleCount] = []
        for contract in contracts:
            _stage(connection, contract.table, read(contract.table), scratch)
            rules += validate(connection, contract)
        tallies = [count_rows(connection, contract) for contract in contracts]
        write_quarantine(connection, contracts, folder)
        write_validation(connection, contracts, tallies, rules, folder)
        _tell(source.name, tallies, rules)
        try:
            _hold_to_limit(connection, tallies, rules, settings.data.max_refused, kept)
            snapshot = _snapshot(connection, scratch, settings)
        except BadInput:
            _keep(folder, kept)
            raise
    shutil.rmtree(scratch)
    assert sum(one.quarantined for one in tallies) == pq.read_metadata(folder / "quarantine.parquet").num_rows
    return {
        "rows": sum(one.read for one in tallies),
        "source": source.name,
        "snapshot": snapshot.digest,
        "accepted": sum(one.accepted for one in tallies),
        "quarantined": sum(one.quarantined for one in tallies),
        "rules": tuple(rules),
    }


def _contracts() -> list[Contract]:
    try:
        return [load_contract(contract_file(table)) for table in TABLES]
    except ContractError as error:
        raise NightshiftError(f"data contract {error}") from error


def _stage(connection: duckdb.DuckDBPyConnection, table: str, batches: Iterator[pa.RecordBatch], scratch: Path) -> None:
    """Put the rows of a table where DuckDB can read them as often as it needs, whatever their source."""
    file = scratch / f"{table}_staged.parquet"
    with pq.ParquetWriter(file, SCHEMAS[table], compression="lz4") as writer:
        for batch in batches:
            writer.write_batch(batch)
    connection.execute(f"CREATE VIEW {table}_staged AS SELECT * FROM read_parquet({quoted(file)})")


def _tell(source: str, tallies: list[Tally], rules: list[RuleCount]) -> None:
    for one in tallies:
        _log.info("%s: %d %s read, %d accepted, %d refused", source, one.read, one.table, one.accepted, one.quarantined)
        if one.not_relevant:
            _log.info("%d accepted judgements say 'not relevant': counted, no positives", one.not_relevant)
    for rule in rules:
        if rule.failed:
            _log.info("rule %s (%s): %d of %d %s", rule.rule, rule.severity, rule.failed, rule.checked, rule.table)


def _hold_to_limit(
    connection: duckdb.DuckDBPyConnection, tallies: list[Tally], rules: list[RuleCount], limit: float, kept: Path
) -> None:
    for one in tallies:
        if one.refused_share <= limit:
            continue
        broken = [rule for rule in rules if rule.table == one.table and rule.severity == "error" and rule.failed]
        broken.sort(key=lambda rule: -rule.failed)
        lines = [f"  {rule.rule}: {rule.failed}, first {', '.join(examples(connection, rule))}" for rule in broken[:3]]
        raise BadInput(
            f"{one.table}: {one.quarantined} of {one.read} rows refused ({one.refused_share:.1%}); "
            f"[data] max_refused allows {limit:.1%}.\n" + "\n".join(lines) + f"\nEvery refused row with its reason: "
            f"{kept / 'quarantine.parquet'}. Mend the source, or raise max_refused."
        )


def _snapshot(connection: duckdb.DuckDBPyConnection, scratch: Path, settings: Settings) -> Snapshot:
    rows = scratch / "accepted"
    rows.mkdir()
    accepted = write_accepted(connection, rows, settings.data.dev_share, settings.data.seed)

    def build(folder: Path) -> Mapping[str, Any]:
        for file in files_under(rows):
            file.rename(folder / file.name)
        return accepted.fields

    return produce(settings.home, Snapshot, {"content": accepted.digest}, build)


def _keep(folder: Path, kept: Path) -> None:
    """Copy quarantine and validation out of a build that will not be finished, so that nothing refused is lost."""
    aside = kept.with_name(f".{kept.name}.{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in ("quarantine.parquet", "validation.json"):
        shutil.copyfile(folder / name, aside / name)
    shutil.rmtree(kept, ignore_errors=True)
    aside.rename(kept)
