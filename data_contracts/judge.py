"""Runs contract rules with Great Expectations over the distinct values of measured columns.

A rule's verdict on a row depends on one measured value only, so a million rows need no more verdicts than there are
different values. Importing Great Expectations takes seconds: this module is imported only when rows are really judged.
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

# COMPLETE lists every failing value, not the first 20; the values themselves stay out of the answer.
_EVERY_ROW = {"result_format": "COMPLETE", "exclude_unexpected_values": True, "return_unexpected_index_query": False}
# What judges each value by itself. Others look at other rows too (uniqueness, order, outliers), which distinct values
# cannot show, or at the type of the whole column; a table says those with measures such as `key_repeats`.
_BY_VALUE = {
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
    """Make a Great Expectations suite of `rules`.

    Raises ContractError for an expectation that does not exist, that does not judge each value by itself, or that has
    wrong arguments.
    """
    expectations = [_expectation(contract, rule) for rule in rules]
    return gx.ExpectationSuite(contract.table, expectations=expectations)


def judge(suite: Any, frame: pd.DataFrame) -> dict[str, list[int]]:
    """The places in `frame`, whose index is called `row`, that failed each rule. Every rule has an entry.

    Counts, not `success`, decide. Raises ContractError when a rule could not be run or did not list all that failed.
    """
    batch = _whole_frames().get_batch({"dataframe": frame})
    outcome = batch.validate(suite, result_format=_EVERY_ROW)
    failed = {one.expectation_config.meta["rule"]: _rows(suite, one, len(frame)) for one in outcome.results}
    if len(failed) != len(suite.expectations):
        raise ContractError(f"{suite.name}: {len(suite.expectations)} rules were asked, {len(failed)} answered")
    return failed


def _expectation(contract: Contract, rule: Rule) -> Any:
    where = f"{contract.file.name}, rule {rule.name}"
    try:
        kind = get_expectation_impl(rule.expectation)
        if rule.expectation not in _BY_VALUE:
            raise ContractError(
                f"{where}: {rule.expectation} does not judge single rows by their own value, so none can be quarantined"
            )
        return kind(**rule.kwargs, meta={"rule": rule.name})
    except (gx.exceptions.GreatExpectationsError, ValueError, TypeError) as error:
        raise ContractError(f"{where}: Great Expectations cannot run it: {error}") from error


def _rows(suite: Any, one: Any, size: int) -> list[int]:
    name = one.expectation_config.meta["rule"]
    count = one.result.get("unexpected_count")
    if count is None or one.exception_info.get("raised_exception", True) or one.result["element_count"] != size:
        raise ContractError(f"{suite.name}, rule {name}: could not be run: {one.exception_info}")
    rows = [int(row) for group in one.result["unexpected_index_list"] for row in group["row"]]
    if len(rows) != count:
        raise ContractError(f"{suite.name}, rule {name}: {count} rows failed but {len(rows)} are listed")
    return rows


@cache
def _whole_frames() -> Any:
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    context = gx.get_context(mode="ephemeral", project_config=config)
    asset = context.data_sources.add_pandas("measured").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")
