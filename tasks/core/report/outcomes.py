"""Outcomes of a night."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a night ended. The value is also the name of its state in Prefect."""

    RUNNING = "Running"  # has not ended
    PROMOTED = "Promoted"  # a new release serves
    REJECTED = "Rejected"  # the gate or the training kept the challenger from serving
    SKIPPED = "Skipped"  # nothing to do
    SUSPECT = "Suspect"  # the input looks broken
    UNLABELED = "Unlabeled"  # a person must label queries
    FAILED = "Failed"  # an error stopped it
