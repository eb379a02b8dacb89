from pathlib import Path

import pytest

from data_contracts.contract import TABLES, Contract, ContractError, contract_file, load_contract

GOOD = contract_file("passages").read_text()


def spoiled(folder: Path, old: str, new: str) -> Path:
    assert old in GOOD
    file = folder / "passages.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    return file


@pytest.fixture(params=TABLES)
def contract(request: pytest.FixtureRequest) -> Contract:
    return load_contract(contract_file(request.param))


def test_every_contract_is_valid_and_can_be_run(contract: Contract) -> None:
    from data_contracts.judge import compile_rules

    assert contract.key
    suite = compile_rules(contract, list(contract.rules))
    assert len(suite.expectations) == len(contract.rules)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    properties:", "    propertees:", "propertees"),
        ("        primaryKey: true", "        primarykey: true", "primarykey"),
        ("        severity: error", "        severty: error", "severty"),
        ("        severity: error", "        severity: fatal", "severity error or warn"),
        ("version: 1.1.0", "version: 1.1.0\nversion: 2.0.0", "repeated key 'version'"),
        ("engine: greatExpectations", "engine: soda", "can be run"),
        ("column: key_repeats", "column: key_repeat", "key_repeat"),
        ("column: text_visible", "column: body_visible", "body_visible"),
        ("column: text_visible", "column: text_known", "relationships"),
        ("value_set: [0]}", "value_set: [0], mostly: 0.9}", "mostly"),
        ("value_set: [0]}", "value_set: [0], row_condition: title_chars > 5}", "row_condition"),
        ("column: table_growth", "column: text_growth", "text_growth"),
        ("column: table_growth", "column: table_chars", "table_chars"),
        ("  - name: passages", "  - name: passengers", "passengers"),
        ("name: passage_conflicting", "name: passage_repeated", "same name"),
        ("kind: DataContract", "kind: [", "cannot be read"),
    ],
)
def test_an_invalid_contract_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        load_contract(spoiled(tmp_path, old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("expect_column_values_to_be_in_set", "expect_column_values_to_be_nice", "expect_column_values_to_be_nice"),
        ("expect_column_values_to_be_in_set", "expect_column_distinct_values_to_be_in_set", "single rows"),
        ("type: expect_column_values_to_be_in_set", "type: expect_column_values_to_be_unique", "single rows"),
        ("value_set: [0]}", "value_sett: [0]}", "value_sett"),
    ],
)
def test_a_rule_that_does_not_compile_stops_the_night(tmp_path: Path, old: str, new: str, message: str) -> None:
    from data_contracts.judge import compile_rules

    contract = load_contract(spoiled(tmp_path, old, new))
    with pytest.raises(ContractError, match=message):
        compile_rules(contract, list(contract.rules))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "column: text_chars, min_value: 10",
            "column: text_chars, min_value: 10, max_value: 1",
        ),  # minimum above maximum
        ("column: text_chars, min_value: 10", "column: text_bytes, min_value: 10"),  # missing column
    ],
)
def test_a_rule_that_fails_to_run_is_an_error_and_not_zero_failures(tmp_path: Path, old: str, new: str) -> None:
    import pandas as pd

    from data_contracts.judge import check_values, compile_rules

    contract = load_contract(spoiled(tmp_path, old, new))
    suite = compile_rules(contract, [rule for rule in contract.rules if rule.name == "passage_text_short"])
    with pytest.raises(ContractError, match="could not be run"):
        check_values(suite, pd.DataFrame({"text_chars": [1]}, index=pd.Index([0], name="row")))


def test_every_failing_row_is_listed_and_null_fails_only_the_null_rule() -> None:
    import pandas as pd

    from data_contracts.judge import check_values, compile_rules

    contract = load_contract(contract_file("passages"))
    wanted = ("passage_text_short", "passage_text_present")
    suite = compile_rules(contract, [rule for rule in contract.rules if rule.name in wanted])
    lengths = [5.0] * 100 + [None] * 50 + [100.0]
    frame = pd.DataFrame({"text_chars": lengths}, index=pd.RangeIndex(1000, 1151, name="row"))
    failed = check_values(suite, frame)
    assert failed == {
        "passage_text_short": list(range(1000, 1100)),
        "passage_text_present": list(range(1100, 1150)),
    }


def test_an_unknown_expectation_stops_a_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_contracts import contract as contracts
    from tasks.core.base.errors import NightshiftError
    from tasks.core.base.settings import DataSettings, Settings
    from tasks.core.ingest.ingest import ingest

    for table in ("queries", "qrels", "pairs"):
        (tmp_path / f"{table}.yaml").write_text(contract_file(table).read_text())
    spoiled(tmp_path, "expect_column_values_to_be_in_set", "expect_column_values_to_be_nice")
    monkeypatch.setattr(contracts, "FOLDER", tmp_path)
    root = tmp_path / "source"
    (root / "qrels").mkdir(parents=True)
    (root / "corpus.jsonl").write_text('{"_id": "p", "text": "a text of ten or more"}\n')
    (root / "queries.jsonl").write_text('{"_id": "q", "text": "a query"}\n')
    (root / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp\t1\n")
    settings = Settings(home=tmp_path / "home", data=DataSettings(format="beir", path=root))
    with pytest.raises(NightshiftError, match="expect_column_values_to_be_nice"):
        ingest(settings)
    assert not list((tmp_path / "home" / "ingests").glob("[!.]*"))
