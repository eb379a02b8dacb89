"""The name of everything that decides which token ids a text gets; no weight has a part in it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core.base.files import digest_of, file_digest, files_under
from tasks.core.encoder.tower import Tower

VERSION = 2  # of how a cache lays ids out; a change makes new ones


def tokenizer_key(tower: Tower) -> str:
    """Name the tokenizer of a tower with its token limit and prompt: every retrained encoder has the same."""
    return _key(tower.tokenizer, tower.prompt, tower.max_tokens)


@lru_cache(maxsize=4)  # a tenth of a second for a large vocabulary, which each shard would pay
def _key(tokenizer: Any, prompt: str, limit: int) -> str:
    facts = _of_rust(tokenizer) if tokenizer.is_fast else _of_files(tokenizer)
    return digest_of({"tokenizer": facts, "prompt": prompt, "limit": limit, "version": VERSION})


def number_kind(tower: Tower) -> str:
    """The least type of numbers that holds every token id."""
    return _kind(tower.tokenizer)


@lru_cache(maxsize=4)
def _kind(tokenizer: Any) -> str:
    return "uint16" if max(tokenizer.get_vocab().values(), default=0) < 2**16 else "int32"


def _of_rust(tokenizer: Any) -> object:
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    # The last call's: what truncates here is the limit, and nothing pads.
    decisive = {name: value for name, value in whole.items() if name not in ("truncation", "padding")}
    return [decisive, tokenizer.truncation_side, getattr(tokenizer, "split_special_tokens", False)]


def _of_files(tokenizer: Any) -> object:
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {file.name: file_digest(file) for file in files_under(Path(folder))}
