"""Results that Great Expectations returned before are reused, and equal those that it returns."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_collection import Collection, passage

from data_contracts.contract import contract_file, load_contract
from tasks.core.base.duckdb_session import database
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.known_results import (
    FAILS,
    FILE,
    UNKNOWN,
    add_results,
    create_results,
    find_results,
    numbers_at_limits,
)
from tasks.core.ingest.validation import _check_values

FILES = ("quarantine.parquet", "warnings.parquet", "validation.json")


@pytest.fixture
def changed(collection: Collection) -> Collection:
    """A collection with bad rows that was ingested, and then got good and bad rows with other measures."""
    for number, text in enumerate(("", "short", "<b>bold</b> is markup", "a mark � of decoding", "a b " * 3000)):
        collection.add("corpus.jsonl", {"_id": f"odd{number}", "text": text})
    ingest(collection.settings())
    for number, text in enumerate(("\u00a0", "tiny", "<p>a paragraph</p>", "another � mark", "c d " * 3100)):
        collection.add("corpus.jsonl", {"_id": f"new{number}", "text": text})
    collection.add("corpus.jsonl", passage(3), {"_id": "x" * 600, "text": "an id that is far too long"}, passage(97))
    return collection


def test_a_night_that_reuses_results_equals_one_that_checks_all(
    changed: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changed.settings()
    scratch, expected = ingest(settings.model_copy(update={"home": tmp_path / "other"}))
    monkeypatch.setattr("data_contracts.judge.check_values", _refuse)
    monkeypatch.setattr("data_contracts.judge.compile_rules", _refuse)
    alone = settings.data.model_copy(update={"compare": False})  # the other home has no earlier snapshot either
    night, snapshot = ingest(settings.model_copy(update={"data": alone}))
    assert snapshot.digest == expected.digest
    assert night.quarantined > 1
    for name in FILES:
        assert (night.path / name).read_bytes() == (scratch.path / name).read_bytes()


def test_lost_or_damaged_results_are_checked_again(changed: Collection) -> None:
    stored = changed.home / FILE
    kept = stored.read_bytes()
    stored.write_bytes(b'{"results": {"rule": [[1]]}}')
    night, _ = ingest(changed.settings())
    assert {rule.rule: rule.failed for rule in night.rules}["passage_text_markup"] == 2
    assert len(stored.read_bytes()) > len(kept) / 2


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()])
def test_known_results_equal_those_of_great_expectations(tmp_path: Path, kind: pa.DataType) -> None:
    contract = load_contract(contract_file("passages"))
    rules = list(contract.rules)
    first = pa.array([0, 1, None], kind)
    limits = numbers_at_limits(rules, first)
    checked = pa.concat_arrays([first, limits])
    draw = random.Random(0)
    numbers = [*limits.to_pylist(), *(draw.choice((1, 10, 1e4, 1e7)) * draw.random() for _ in range(200))]
    values = pa.array([None, *map(int if pa.types.is_integer(kind) else float, numbers)], kind).unique()
    before = _check_values(contract, rules, {rule.measured.column: checked for rule in rules})
    expected = _check_values(contract, rules, {rule.measured.column: values for rule in rules})
    with database(tmp_path) as connection:
        create_results(connection)
        for rule in rules:
            add_results(connection, rule, checked, before[rule.name])
            results = find_results(connection, rule, values)
            wanted = expected[rule.name].to_pylist()
            fails = np.array([value in wanted for value in values.to_pylist()])
            known = results != UNKNOWN
            assert np.array_equal(results[known] == FAILS, fails[known]), rule
            assert known.all() or "value_set" in rule.kwargs, rule


def _refuse(*_: object) -> None:
    raise AssertionError("Great Expectations was run")
