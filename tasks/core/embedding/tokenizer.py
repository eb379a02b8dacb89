"""The name of everything that decides which token ids a text gets; no weight has a part in it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.core.files import digest_of, file_digest, files_under
from tasks.core.training.tower import Tower

VERSION = 2  # of how a cache lays ids out; a change makes new ones


def tokenizer_key(tower: Tower) -> str:
    """Name the tokenizer of a tower with its token limit and prompt: every retrained encoder has the same."""
    facts = _of_rust(tower.tokenizer) if tower.tokenizer.is_fast else _of_files(tower.tokenizer)
    return digest_of({"tokenizer": facts, "prompt": tower.prompt, "limit": tower.max_tokens, "version": VERSION})


def number_kind(tower: Tower) -> str:
    """The least type of numbers that holds every token id."""
    return "uint16" if max(tower.tokenizer.get_vocab().values(), default=0) < 2**16 else "int32"


def _of_rust(tokenizer: Any) -> object:
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    # The last call's: what truncates here is the limit, and nothing pads.
    decisive = {name: value for name, value in whole.items() if name not in ("truncation", "padding")}
    return [decisive, tokenizer.truncation_side, getattr(tokenizer, "split_special_tokens", False)]


def _of_files(tokenizer: Any) -> object:
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {file.name: file_digest(file) for file in files_under(Path(folder))}
