"""The split that the name of a file, or a column, gives."""

from __future__ import annotations

import re

SPLITS = ("train", "dev", "test")
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
_KNOWN = {"train": "train", "dev": "dev", "test": "test", "validation": "dev", "valid": "dev", "val": "dev"}


def known_split(name: str) -> str:
    """The split that is called `name`: in any case, and validation, valid, and val are dev. Other names stay."""
    return _KNOWN.get(name.lower(), name)


def split_of(name: str) -> str:
    """The split of a file called `name` (with or without its endings, without folders).

    Numbers of a shard are not part of it. Of the rest the last word counts when it is a known split
    (biencoder-nq-train: train; Validation-00000-of-00002: dev), and otherwise the whole (heldout: heldout).
    """
    stem = _SHARD.sub("", name.partition(".")[0])
    split = known_split(re.split(r"[-_]", stem)[-1])
    return split if split in SPLITS else stem
