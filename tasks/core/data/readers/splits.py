"""The split that a file's name says."""

from __future__ import annotations

import re

_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
_KNOWN = {"train": "train", "dev": "dev", "test": "test", "validation": "dev", "valid": "dev", "val": "dev"}


def split_of(name: str) -> str:
    """The split of a file called `name` (its endings may be there, folders not).

    Numbers of a shard are no part of it; of what remains the last word counts when it is a known split
    (biencoder-nq-train: train; validation-00000-of-00002: dev), and the whole when it is not (heldout: heldout).
    """
    stem = _SHARD.sub("", name.partition(".")[0])
    last = re.split(r"[-_]", stem)[-1]
    return _KNOWN.get(last, stem)
