"""Run a night's flow in this process, and get its outcome even if the Prefect server dies."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

import httpx  # isort: skip
from prefect.settings import PREFECT_API_URL
from prefect.states import State

from flows.prefect_api import UNAUTHORIZED, login_refused
from tasks.core.base.errors import NightshiftError, Unreachable
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

    Raises:
        Unreachable: the Prefect server is gone before the night started.
        NightshiftError: the Prefect server refuses the login.
    """
    _outcomes.clear()
    try:
        return night(*arguments, return_state=True).result(raise_on_failure=False)
    except httpx.HTTPError as error:  # Prefect could not store the run's state
        if not _outcomes:
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == UNAUTHORIZED:
                raise NightshiftError(login_refused(str(PREFECT_API_URL.value()))) from error
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
