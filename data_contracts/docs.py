"""Great Expectations' Data Docs of one table, as a fragment that loads nothing and links nowhere.

Great Expectations' own renderer writes the page; of its HTML only structure and words are kept, because the rest pulls
scripts, styles, fonts and a logo from the network whenever somebody looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from html.parser import HTMLParser

import great_expectations as gx
from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    ExpectationValidationResult,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from data_contracts.contract import Contract, Rule

_NO_EXCEPTION = {"raised_exception": False, "exception_message": None, "exception_traceback": None}
_DROPPED = {"script", "style", "svg", "button", "form", "nav", "footer", "title", "head"}  # with all that is in them
_KEPT = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "p", "h1", "h2", "h3", "h4", "h5", "strong", "ul",
         "li", "hr", "br", "code", "b", "i"}  # fmt: skip
_EMPTY = {"hr", "br"}


@dataclass(frozen=True)
class Outcome:
    """How one rule fared over a whole table."""

    rule: Rule
    checked: int
    failed: int
    offenders: Sequence[str]  # where the first rows that failed are


def docs_of(contract: Contract, outcomes: Sequence[Outcome], when: str) -> str:
    """The Data Docs of one table: HTML without any script, style, image or link. `when`: ISO 8601."""
    results = [_result(one) for one in outcomes]
    good = sum(not one.failed for one in outcomes)
    document = ValidationResultsPageRenderer().render(
        ExpectationSuiteValidationResult(
            success=good == len(results),
            results=results,
            suite_name=contract.table,
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": good,
                "unsuccessful_expectations": len(results) - good,
                "success_percent": 100 * good / max(1, len(results)),
            },
            meta={
                "great_expectations_version": gx.__version__,
                "run_id": {"run_name": contract.table, "run_time": when},
                "active_batch_definition": {},
            },
        )
    )
    words = _Words()
    words.feed(_view().render(document))
    return "".join(words.parts)


@cache  # it compiles its templates when they are first used
def _view() -> DefaultJinjaPageView:
    return DefaultJinjaPageView()


def _result(one: Outcome) -> ExpectationValidationResult:
    share = 100 * one.failed / max(1, one.checked)
    notes = f"{one.rule.name} ({one.rule.severity}): {one.rule.description}"
    return ExpectationValidationResult(
        success=not one.failed,
        expectation_config=ExpectationConfiguration(
            type=one.rule.expectation, kwargs=dict(one.rule.kwargs), description=notes
        ),
        exception_info=_NO_EXCEPTION,
        result={
            "element_count": one.checked,
            "unexpected_count": one.failed,
            "unexpected_percent": share,
            "unexpected_percent_nonmissing": share,
            "missing_count": 0,
            "missing_percent": 0.0,
            "partial_unexpected_list": list(one.offenders),
        },
        meta={},
    )


class _Words(HTMLParser):
    """Keeps plain structure, classes and words of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._inside = 0  # how many dropped elements are open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _DROPPED:
            self._inside += 1
        elif not self._inside and tag in _KEPT:
            classes = escape(dict(attrs).get("class") or "")
            self.parts.append(f'<{tag} class="{classes}">' if classes else f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        if tag in _DROPPED:
            self._inside = max(0, self._inside - 1)
        elif not self._inside and tag in _KEPT - _EMPTY:
            self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.parts.append(escape(data))
