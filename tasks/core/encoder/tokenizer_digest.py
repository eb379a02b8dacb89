"""Digest of everything that determines the token ids of a text. Weights are not part of it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core.base.files import digest_of, file_digest, files_under
from tasks.core.encoder.serving import ServingTower

VERSION = 2  # of the cache format; raise it to rebuild all caches


def tokenizer_key(tower: ServingTower) -> str:
    """Return the digest of the tokenizer, token limit, and prompt of a tower. Retraining does not change it."""
    return _key(tower.tokenizer, tower.prompt, tower.max_tokens)


@lru_cache(maxsize=4)  # takes 0.1 s for a large vocabulary
def _key(tokenizer: Any, prompt: str, limit: int) -> str:
    facts = _facts_of_fast(tokenizer) if tokenizer.is_fast else _facts_of_slow(tokenizer)
    return digest_of({"tokenizer": facts, "prompt": prompt, "limit": limit, "version": VERSION})


def number_kind(tower: ServingTower) -> str:
    """Return the smallest integer type that holds every token id: "uint16" or "int32"."""
    return _kind(tower.tokenizer)


@lru_cache(maxsize=4)
def _kind(tokenizer: Any) -> str:
    return "uint16" if max(tokenizer.get_vocab().values(), default=0) < 2**16 else "int32"


def _facts_of_fast(tokenizer: Any) -> object:
    config = json.loads(tokenizer.backend_tokenizer.to_str())
    # Leave out the truncation and padding of the last call: the limit is part of the key already.
    decisive = {name: value for name, value in config.items() if name not in ("truncation", "padding")}
    return [decisive, tokenizer.truncation_side, getattr(tokenizer, "split_special_tokens", False)]


def _facts_of_slow(tokenizer: Any) -> object:
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {file.name: file_digest(file) for file in files_under(Path(folder))}
