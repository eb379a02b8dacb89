"""Run a night's flow in this process, and get its outcome even if the Prefect server dies."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

import httpx  # isort: skip
from prefect.states import State

from tasks.core.base.errors import Unreachable
from tasks.core.report.night import Night
from tasks.server_loss import loss

_outcomes: list[Night | Exception] = []  # of nights in this process, in case Prefect cannot return the last one


def keep_outcome(outcome: Night | Exception) -> None:
    """Store the outcome of a night, before it is reported to Prefect."""
    _outcomes.append(outcome)


def run_night(night: Callable[..., State[Any]], *arguments: Any) -> object:
    """Run the flow `night` to completion.

    Returns:
        The night's record, or the error that ended it.

    Raises Unreachable when the Prefect server is gone before the night started.
    """
    _outcomes.clear()
    try:
        return night(*arguments, return_state=True).result(raise_on_failure=False)
    except httpx.HTTPError as error:  # Prefect could not store the run's state
        if not _outcomes:
            raise Unreachable(
                f"The Prefect server does not answer ({error}). Run `nightshift run` again. It resumes after the last "
                "finished step."
            ) from error
        return _outcomes[-1]


def leave(code: object) -> NoReturn:
    """Exit with `code`; immediately if the Prefect server is gone, because Prefect would wait minutes for it."""
    if loss.warned and loss.noticed():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)  # type: ignore[arg-type]
