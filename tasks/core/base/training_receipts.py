"""Receipts of what chooses a recipe of training: the pace of a machine, and short trials."""

from __future__ import annotations

from typing import ClassVar

from tasks.core.base.receipts import Receipt


class Pace(Receipt):
    """Speed of training on a machine, measured on `rows` texts. Budgets of later nights use the same record."""

    shelf: ClassVar[str] = "paces"

    tokens_per_second: float  # forward and backward
    machine: str


class Trial(Receipt):
    """A short training of a recipe, without the encoder. `rows` counts steps."""

    shelf: ClassVar[str] = "trials"

    dev: tuple[float, ...]  # nDCG@10 of each dev query on a passage pool, after training
