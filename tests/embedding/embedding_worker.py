"""Embeds in a process of its own, in windows so small that a kill finds it anywhere."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tasks.core.base.files import load
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.embedding import assemble, shards
from tasks.core.embedding import token_cache as tokens

SHARDS = 3
PRELOAD = ["tasks.core.embedding.shards", "transformers.models.bert.modeling_bert"]  # so that a process begins at once


def embed(home: Path, encoder: str, snapshot: str, begun: Connection) -> None:
    """Embed and seal; `begun` hears when the work begins."""
    torch.set_num_threads(1)
    shards.WINDOW, assemble.GROUP_ROWS, tokens.BLOCK_ROWS, tokens.TEXTS_AT_ONCE = 16, 16, 64, 16
    begun.send("begun")
    shards.gather_shards(home, load(home, Encoder, encoder), load(home, Snapshot, snapshot), SHARDS)
