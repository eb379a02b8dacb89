"""Embed in a separate process with small windows, so that a kill may interrupt any step."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tasks.core.base.files import load
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.embedding import assemble, shards
from tasks.core.embedding import token_cache as tokens

SHARDS = 3
# Imported in advance, so that a process starts quickly.
PRELOAD = ["tasks.core.embedding.shards", "transformers.models.bert.modeling_bert"]


def embed(home: Path, encoder: str, snapshot: str, begun: Connection) -> None:
    """Embed and seal. Send a message on `begun` when the work starts."""
    torch.set_num_threads(1)
    shards.WINDOW, assemble.GROUP_ROWS, tokens.BLOCK_ROWS, tokens.TEXTS_AT_ONCE = 16, 16, 64, 16
    begun.send("begun")
    shards.gather_shards(home, load(home, Encoder, encoder), load(home, Snapshot, snapshot), SHARDS)
