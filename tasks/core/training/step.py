"""The gradient of one batch, however large it is and however many processes share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from tasks.core.embedding.precision import has_bf16
from tasks.core.training.batches import Batch
from tasks.core.training.encoder import DualEncoder
from tasks.core.training.gradient_cache import Forward
from tasks.core.training.losses.choose import Loss
from tasks.core.training.losses.relations import Relations
from tasks.core.training.pairs import TrainingPairs
from tasks.core.training.ranks import Ranks
from tasks.core.training.settings import TrainingSettings

# Padded tokens that go through at once: on a CPU as many as its caches hold (a quarter faster than twice as many),
# on a GPU enough to keep it busy.
CHUNK_TOKENS = {"cpu": 2048, "cuda": 16384}


def add_gradients(
    encoder: DualEncoder, data: TrainingPairs, batch: Batch, loss: Loss, settings: TrainingSettings, ranks: Ranks
) -> float:
    """Put the gradient of the batch's loss into the weights' `.grad`, and return the loss.

    The result is that of one process that holds the whole batch in memory, whatever `ranks` and `memory_tokens` say.
    """
    device = encoder.query.device
    sides = (
        (encoder.query, data.query_tokens.take(batch.queries)),
        (encoder.passage, data.passage_tokens.take(batch.passages)),
    )
    shares = [ranks.shares([len(one) for one in ids]) for _, ids in sides]
    own = [
        (tower, [ids[row] for row in share[ranks.rank].tolist()])
        for (tower, ids), share in zip(sides, shares, strict=True)
    ]
    tokens = sum(len(one) for _, ids in own for one in ids)
    forward = Forward(
        own, CHUNK_TOKENS[device.type], keep=tokens <= settings.memory_tokens, autocast=numeric(settings, device)
    )
    queries, passages = (ranks.gather(part, share) for part, share in zip(forward.vectors, shares, strict=True))
    value = loss(queries, passages, _relations(batch, device))
    forward.backward(_gradients(value, forward.vectors))
    ranks.sum_gradients(parameter for tower in encoder.towers.values() for parameter in tower.parameters())
    return value.item()


def numeric(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context in which a transformer runs: bf16 matrix products over float32 weights, or plain float32."""
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_bf16())
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _gradients(value: Tensor, vectors: Sequence[Tensor]) -> list[Tensor | None]:
    wanted = [one for one in vectors if one.requires_grad]
    found = iter(torch.autograd.grad(value, wanted))
    return [next(found) if one.requires_grad else None for one in vectors]


def _relations(batch: Batch, device: torch.device) -> Relations:
    return Relations(
        own=torch.arange(len(batch.queries), device=device),
        positive=torch.from_numpy(batch.positive).to(device),
        known=torch.from_numpy(batch.known).to(device),
        teacher=None if batch.teacher is None else torch.from_numpy(batch.teacher).to(device),
    )
