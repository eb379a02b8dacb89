"""Derives the split from the name of a file or the value of a column."""

from __future__ import annotations

import re

from tasks.core.snapshot.splits import Split

_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
_KNOWN = {**{split.value: split for split in Split}, **dict.fromkeys(("validation", "valid", "val"), Split.DEV)}


def known_split(name: str) -> str:
    """Return the split called `name`, ignoring case; validation, valid, and val are dev. Other names are unchanged."""
    return _KNOWN.get(name.lower(), name)


def split_of(name: str) -> str:
    """Return the split of a file called `name` (without folders, with or without endings).

    Shard numbers are ignored. The split is the last word if it is a known split (biencoder-nq-train: train;
    Validation-00000-of-00002: dev), or else the whole name (heldout: heldout).
    """
    stem = _SHARD.sub("", name.partition(".")[0])
    split = known_split(re.split(r"[-_]", stem)[-1])
    return split if split in set(Split) else stem
