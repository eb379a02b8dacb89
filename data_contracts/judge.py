"""Runs contract rules with Great Expectations on the distinct values of measured columns.

Whether a row passes a rule depends on one measured value, so checking the distinct values checks all rows. Importing
Great Expectations takes seconds, so import this module only to check rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from data_contracts.contract import Contract, ContractError, Rule

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # before the import: no telemetry

import great_expectations as gx
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.registry import get_expectation_impl

if TYPE_CHECKING:
    import pandas as pd

# COMPLETE lists every failing value, not only the first 20; the result omits the values themselves.
_ALL_ROWS = {"result_format": "COMPLETE", "exclude_unexpected_values": True, "return_unexpected_index_query": False}
# Expectations that check each value separately. Others compare rows (uniqueness, order, outliers) or check the type of
# the column, which distinct values cannot show. Contracts express those with measures such as `key_repeats`.
_VALUE_EXPECTATIONS = {
    "expect_column_value_lengths_to_be_between",
    "expect_column_value_lengths_to_equal",
    "expect_column_values_to_be_between",
    "expect_column_values_to_be_dateutil_parseable",
    "expect_column_values_to_be_in_set",
    "expect_column_values_to_be_json_parseable",
    "expect_column_values_to_be_null",
    "expect_column_values_to_match_json_schema",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_match_regex_list",
    "expect_column_values_to_match_strftime_format",
    "expect_column_values_to_not_be_in_set",
    "expect_column_values_to_not_be_null",
    "expect_column_values_to_not_match_regex",
    "expect_column_values_to_not_match_regex_list",
}


def compile_rules(contract: Contract, rules: Sequence[Rule]) -> Any:
    """Return a Great Expectations suite of `rules`.

    Raises ContractError for an expectation that does not exist, that does not check each value separately, or that has
    wrong arguments.
    """
    expectations = [_expectation(contract, rule) for rule in rules]
    return gx.ExpectationSuite(contract.table, expectations=expectations)


def check_values(suite: Any, frame: pd.DataFrame) -> dict[str, list[int]]:
    """Check every value of `frame`, and return the index labels that failed each rule.

    Args:
        suite: the rules, from `compile_rules`.
        frame: one column per measured column; its index is named `row`.

    Returns one entry per rule, taken from the reported counts, not from `success`.

    Raises ContractError when a rule could not be run or did not list every failed value.
    """
    batch = _batch_definition().get_batch({"dataframe": frame})
    outcome = batch.validate(suite, result_format=_ALL_ROWS)
    failed = {
        result.expectation_config.meta["rule"]: _failed_rows(suite, result, len(frame)) for result in outcome.results
    }
    if len(failed) != len(suite.expectations):
        raise ContractError(f"{suite.name}: {len(failed)} of {len(suite.expectations)} rules returned a result")
    return failed


def _expectation(contract: Contract, rule: Rule) -> Any:
    where = f"{contract.file.name}, rule {rule.name}"
    try:
        kind = get_expectation_impl(rule.expectation)
        if rule.expectation not in _VALUE_EXPECTATIONS:
            raise ContractError(
                f"{where}: {rule.expectation} does not check single rows by their value, so no row can be quarantined"
            )
        return kind(**rule.kwargs, meta={"rule": rule.name})
    except (gx.exceptions.GreatExpectationsError, ValueError, TypeError) as error:
        raise ContractError(f"{where}: Great Expectations cannot run it: {error}") from error


def _failed_rows(suite: Any, result: Any, size: int) -> list[int]:
    name = result.expectation_config.meta["rule"]
    count = result.result.get("unexpected_count")
    if count is None or result.exception_info.get("raised_exception", True) or result.result["element_count"] != size:
        raise ContractError(f"{suite.name}, rule {name}: could not be run: {result.exception_info}")
    rows = [int(row) for group in result.result["unexpected_index_list"] for row in group["row"]]
    if len(rows) != count:
        raise ContractError(f"{suite.name}, rule {name}: {count} rows failed but {len(rows)} are listed")
    return rows


@cache
def _batch_definition() -> Any:
    """Return the batch definition of a whole pandas frame, in an ephemeral context without telemetry."""
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("measured").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")
