"""The stages of a night, and the headings under which its log shows them."""

from __future__ import annotations

import logging
from enum import StrEnum

from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Drift
from tasks.core.report.forecast import forecast

SAMPLE = 32  # passages encoded for the estimate: seconds of a night of minutes

log = logging.getLogger("nightshift.stage")


class Stage(StrEnum):
    """What a night does, in this order; a night that does not retrain leaves out mining and training."""

    VALIDATE = "validate"
    COMPARE = "compare"
    INDEX = "index"
    MINE = "mine"
    TRAIN = "train"
    EMBED = "embed"
    EVALUATE = "evaluate"
    PUBLISH = "publish"


def begin(stage: Stage, what: str) -> None:
    """Log the heading of a stage, such as `[5/8] train on 4,003 pairs`."""
    log.info("[%d/%d] %s %s", list(Stage).index(stage) + 1, len(Stage), stage, what)


def log_estimate(settings: Settings, snapshot: Snapshot, drift: Drift) -> None:
    """Log how long the night will take. No estimate where other hosts or several processes do the work."""
    if settings.compute.engine != "local" or settings.training.processes > 1:
        return
    try:
        seconds = forecast(settings, snapshot, drift, sample=SAMPLE).seconds
    except Exception as error:  # no night fails because its length is unknown
        log.debug("no estimate of the night's length: %s", error)
        return
    work = "train" if drift.verdict is Action.RETRAIN else "embed what changed"
    log.info("This night will %s, which takes about %s: %s", work, minutes(seconds), drift.cause)


def minutes(seconds: float) -> str:
    """A length of time as a person says it: seconds, minutes or hours."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
