"""Stages of a night and their log headings."""

from __future__ import annotations

import logging
from enum import StrEnum

from tasks.core.base.progress import format_duration
from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Drift
from tasks.core.report.forecast import forecast

SAMPLE = 32  # passages encoded for the estimate, which takes seconds

log = logging.getLogger("nightshift.stage")


class Stage(StrEnum):
    """Stages of a night, in order. A night that does not retrain skips MINE and TRAIN."""

    VALIDATE = "validate"
    COMPARE = "compare"
    INDEX = "index"
    MINE = "mine"
    TRAIN = "train"
    EMBED = "embed"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


def begin(stage: Stage, details: str) -> None:
    """Log the heading of a stage, such as `[5/8] train on 4,003 pairs`."""
    log.info("[%d/%d] %s %s", list(Stage).index(stage) + 1, len(Stage), stage, details)


def log_estimate(settings: Settings, snapshot: Snapshot, drift: Drift) -> None:
    """Log how long the night will take. Skipped on Ray and for training in several processes."""
    if settings.compute.engine != "local" or settings.training.processes > 1:
        return
    try:
        seconds = forecast(settings, snapshot, drift, sample=SAMPLE).seconds
    except Exception as error:  # a missing estimate must not stop the night
        log.debug("Could not estimate the duration of the night: %s", error)
        return
    work = "retrain" if drift.verdict is Action.RETRAIN else "embed the changed passages"
    log.info("This night will %s (about %s): %s", work, format_duration(seconds), drift.cause)
