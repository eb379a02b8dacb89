"""Merges the votes and judgments of a home into the pairs of a source.

A person who judged with `nightshift judge` outranks the source, because they looked at the pair and gave a name; a
pair from clicks, or with another weight below 1, then counts fully. The
source outranks votes: it is what the gate trusts, and visitors are anonymous, biased towards the first ranks, and can
vote several times. So votes decide only pairs on which the source is silent, and disagreement with the source goes to
the quarantine for a person to judge.

All pairs are for training: no judgment changes a held-out split, whose labels would otherwise favor what the serving
release found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_contracts.contract import JUDGMENTS, ContractError, Severity, contract_file, load_contract
from data_contracts.measures import LATEST, WORDING
from tasks.core.base.duckdb_session import keep, one_number
from tasks.core.base.errors import NightshiftError
from tasks.core.base.rule_count import RuleCount
from tasks.core.ingest.quarantine import Tally, count_rows, with_offenders
from tasks.core.ingest.staging import stage_source
from tasks.core.ingest.validation import add_rules, validate
from tasks.core.sources.feedback_rows import Judgments

if TYPE_CHECKING:
    import duckdb

PROVENANCE = "judged-pairs.parquet"
_OVERRULED = "a person judged this pair the other way (home/feedback/judgments.jsonl)"


@dataclass(frozen=True)
class Merged:
    """Row counts and results of rules of a source and the judgments of its home, and the pairs of each origin."""

    tallies: list[Tally]
    rules: list[RuleCount]
    pairs_from: dict[str, int] = field(default_factory=dict)  # empty without judgments


def merge_judgments(
    connection: duckdb.DuckDBPyConnection, judgments: Judgments, source: Merged, folder: Path, scratch: Path
) -> Merged:
    """Check the judgments against their contract, and change the accepted pairs and queries accordingly.

    Afterwards, the views `pairs_accepted` and `queries_accepted` include the pairs judged relevant, and the table
    `given_negatives` (query_id, passage_id) has the pairs judged not relevant, of training queries. Qrels that a person
    overruled are refused. Writes the provenance of each decided pair to `judged-pairs.parquet` in `folder`.

    Args:
        connection: database of a validated source.
        judgments: the votes and judgments.
        source: counts of the source alone.
        folder: folder of the ingest.
        scratch: folder for staged rows.

    Raises:
        NightshiftError: the contract cannot be run.
    """
    try:
        qrels, contract = (load_contract(contract_file(table)) for table in ("qrels", JUDGMENTS))
    except ContractError as error:
        raise NightshiftError(f"data contract {error}") from error
    add_rules(connection, [contract])
    connection.execute(f"SET VARIABLE votes = {int(judgments.votes)}")
    stage_source(connection, contract, judgments.read(), scratch)
    rules = with_offenders(connection, validate(connection, contract, scratch))
    _decide_pairs(connection, judgments.votes)
    overruled = _refuse_overruled(connection)
    _add_queries(connection)
    _add_pairs(connection)
    _write_provenance(connection, folder / PROVENANCE)
    tallies = [tally for tally in source.tallies if tally.table != qrels.table]
    tallies += [count_rows(connection, qrels), count_rows(connection, contract)]
    return Merged(tallies, [*source.rules, *rules, *with_offenders(connection, [overruled])], _count_pairs(connection))


def describe_pairs(counts: Mapping[str, int]) -> str:
    """Describe how many training pairs and given negatives come from each origin; empty without judgments."""
    return "Training pairs: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()) if counts else ""


def _decide_pairs(connection: duckdb.DuckDBPyConnection, votes: int) -> None:
    """Create the table `decided`: one row per wording and passage that a person, or enough votes, decided."""
    wording = WORDING.format(p="query")
    latest = LATEST.format(wording=wording, rows=f"{JUDGMENTS}_accepted")
    connection.execute(f"""
        CREATE TABLE decided AS
        SELECT wording, passage_id, arg_max(query, row) AS query, origin, relevant, count(*)::INTEGER AS judges,
               CASE WHEN origin = 'judge' THEN string_agg(judge, ', ' ORDER BY judge) END AS names,
               max(judged_at) AS judged_at
        FROM (SELECT *, count(*) FILTER (relevant) OVER pair AS yes, count(*) FILTER (NOT relevant) OVER pair AS no
              FROM {latest} WINDOW pair AS (PARTITION BY wording, passage_id, origin))
        WHERE origin = 'judge' OR (abs(yes - no) >= {int(votes)} AND relevant = (yes > no))
        GROUP BY wording, passage_id, origin, relevant
        QUALIFY row_number() OVER (PARTITION BY wording, passage_id ORDER BY origin DESC) = 1""")


def _refuse_overruled(connection: duckdb.DuckDBPyConnection) -> RuleCount:
    """Refuse the training qrels of the source that a person judged the other way."""
    wording = WORDING.format(p="text")
    number = one_number(connection, "SELECT max(id) + 1 FROM rules")
    connection.execute("INSERT INTO rules VALUES (?, 'qrels', 'qrel_overruled', 'error', ?)", [number, _OVERRULED])
    checked = one_number(connection, "SELECT count(*) FROM qrels_accepted")
    failed = one_number(
        connection,
        f"""
        INSERT INTO failed SELECT 'qrels', row, {number}, '{Severity.ERROR}'
        FROM (SELECT * FROM qrels_accepted WHERE split = 'train')
        JOIN (SELECT query_id, {wording} AS wording FROM queries_accepted) USING (query_id)
        JOIN decided USING (wording, passage_id)
        WHERE origin = 'judge' AND decided.relevant <> (relevance > 0)""",
    )
    return RuleCount(
        table="qrels", rule="qrel_overruled", severity=Severity.ERROR, checked=checked, failed=failed, threshold="0",
        description=_OVERRULED, statement="no row contradicts the judgment of a person",
    )  # fmt: skip


def _add_queries(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the queries of relevant pairs that the source does not have, with an id made of the wording.

    Creates the table `named` (wording, query_id): all query ids of each judged wording.
    """
    wording = WORDING.format(p="text")
    connection.execute(f"""
        CREATE TABLE named AS
        SELECT wording, query_id FROM (SELECT query_id, {wording} AS wording FROM queries_accepted)
        SEMI JOIN decided USING (wording)""")
    new = connection.execute("""
        SELECT wording, arg_max(query, judged_at) FROM decided WHERE relevant GROUP BY wording
        HAVING wording NOT IN (SELECT wording FROM named) ORDER BY wording""").fetchall()
    rows = [(text, "judged-" + hashlib.sha256(text.encode()).hexdigest()[:20], query) for text, query in new]
    columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(3)]
    connection.register("new_queries", pa.table(columns, names=["wording", "query_id", "text"]))
    connection.execute("CREATE TABLE judged_queries AS SELECT query_id, text FROM new_queries")
    connection.execute("INSERT INTO named SELECT wording, query_id FROM new_queries")
    connection.unregister("new_queries")
    _extend(connection, "queries")


def _add_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    """Add the pairs judged relevant. They replace training pairs that the source is less sure of than a person."""
    connection.execute("""
        CREATE TABLE confirmed AS
        SELECT row FROM pairs_accepted JOIN (SELECT row, weight FROM qrels_staged WHERE weight < 1) USING (row)
        JOIN named USING (query_id) JOIN decided USING (wording, passage_id)
        WHERE origin = 'judge' AND decided.relevant AND split = 'train'""")
    connection.execute("""
        CREATE TABLE judged_pairs AS
        SELECT DISTINCT query_id, passage_id, 1::INTEGER AS relevance, 'train' AS split
        FROM decided JOIN named USING (wording)
        ANTI JOIN (FROM pairs_accepted ANTI JOIN confirmed USING (row)) AS kept USING (query_id, passage_id)
        WHERE decided.relevant""")
    _extend(connection, "pairs", "ANTI JOIN confirmed USING (row)")
    connection.execute("""
        CREATE TABLE given_negatives AS
        SELECT DISTINCT query_id, passage_id FROM decided JOIN named USING (wording)
        WHERE NOT relevant AND query_id IN (SELECT query_id FROM pairs_accepted WHERE split = 'train')""")


def _extend(connection: duckdb.DuckDBPyConnection, table: str, without: str = "") -> None:
    """Add the rows of `judged_<table>` to the view `<table>_accepted`, after the join `without`."""
    connection.execute(f"ALTER VIEW {table}_accepted RENAME TO {table}_unjudged")
    connection.execute(f"CREATE VIEW {table}_of_source AS SELECT * FROM {table}_unjudged {without}")
    connection.execute(f"""
        CREATE VIEW {table}_accepted AS
        SELECT * FROM {table}_of_source UNION ALL BY NAME SELECT * FROM judged_{table}""")


def _write_provenance(connection: duckdb.DuckDBPyConnection, file: Path) -> None:
    """Write who decided each pair, and when: a name for `judge`, the number of voters for `feedback`."""
    keep(
        connection,
        "SELECT query_id, query, passage_id, relevant, origin, judges, names, judged_at FROM decided "
        "LEFT JOIN named USING (wording) ORDER BY query_id, query, passage_id",
        file,
    )


def _count_pairs(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Count the training pairs and given negatives by origin."""
    source = one_number(connection, "SELECT count(*) FROM pairs_of_source WHERE split = 'train'")
    counts = {"from the source": source}
    for origin, name in (("judge", "judged by people"), ("feedback", "from feedback")):
        for table, text in (("judged_pairs", name), ("given_negatives", f"given negatives {name}")):
            counts[text] = one_number(
                connection,
                f"SELECT count(*) FROM {table} JOIN named USING (query_id) JOIN decided USING (wording, passage_id) "
                "WHERE origin = ?",
                [origin],
            )
    return counts
