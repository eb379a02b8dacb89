"""Nightshift as a library: mine hard negatives, train a dual encoder, evaluate it, search what a night released.

    import nightshift as ns

    collection = ns.read_beir("scifact")
    negatives = ns.mine_negatives(collection, per_query=8)
    encoder = ns.train(collection, negatives)
    print(ns.evaluate(encoder, collection))

Everything that is computed is kept in `home` under a name made of its inputs, so calling a function again with the
same arguments returns at once.
"""

from __future__ import annotations

from nightshift.packages import load_own_packages

load_own_packages()

import tasks.core.base.environment  # noqa: E402, F401  (before the libraries that read these variables)
from nightshift.collection import Collection, read_beir, read_demo, read_source  # noqa: E402
from nightshift.encoders import Encoder, load_encoder, train  # noqa: E402
from nightshift.evaluation import Evaluation, evaluate  # noqa: E402
from nightshift.negatives import Negatives, mine_negatives  # noqa: E402
from nightshift.releases import Release, Searcher, serving  # noqa: E402
from tasks.core.base.errors import NightshiftError  # noqa: E402

__all__ = [
    "Collection",
    "Encoder",
    "Evaluation",
    "Negatives",
    "NightshiftError",
    "Release",
    "Searcher",
    "evaluate",
    "load_encoder",
    "mine_negatives",
    "read_beir",
    "read_demo",
    "read_source",
    "serving",
    "train",
]
