"""The errors a person is meant to read. Each names the thing, the reason and the next step."""

from __future__ import annotations

from pathlib import Path


class NightshiftError(Exception):
    """A night cannot go on, and the message says why and what to do; shown without a traceback."""


class BadInput(NightshiftError):
    """The source data broke a rule that no quarantine can mend (a missing file, an empty corpus, no training pair)."""

    refused: Path | None = None  # folder with the refused rows and the page of contracts, when rows were read


class Mismatch(NightshiftError):
    """Two things that must belong together do not: an encoder and a collection, a shard and its manifest."""


class StaleNight(NightshiftError):
    """Another release went live after this night began; the pointer was left alone."""


class Unreachable(NightshiftError, ConnectionError):
    """A server did not answer; trying again in a minute may help."""


class Impossible(NightshiftError):
    """What is asked for is well said, but what there is cannot do it; asking again will not help."""
