"""One optimizer step, however large its batch is and however many processes share it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import DualEncoder
from tasks.core.encoder.hardware import has_bf16
from tasks.core.training.batches import Batch
from tasks.core.training.gradient_cache import Forward, TokenIds
from tasks.core.training.losses.choose import Loss, choose_loss, matryoshka
from tasks.core.training.losses.relations import Relations
from tasks.core.training.pairs import TrainingPairs
from tasks.core.training.ranks import Ranks

SHORT = 512  # tokens of a text


class Stepper:
    """The weights of an encoder, and what changes them: AdamW under a linear warm-up and decay, clipped."""

    def __init__(self, encoder: DualEncoder, settings: Settings, steps: int, ranks: Ranks) -> None:
        """Move the encoder to this process's device. `steps` is the length of the schedule."""
        self.encoder, self.steps, self.ranks, self.settings = encoder, steps, ranks, settings.training
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = nn.ModuleDict(dict(encoder.towers)).to(self.device)
        encoder.query.to(self.device)
        self.optimizer = _optimizer(self.model, self.settings)
        _choose_attention(encoder, self.settings, self.device)
        self.loss = matryoshka(
            choose_loss(self.settings), settings.encoder.dimensions, normalize=encoder.spec.normalize
        )

    def step(self, data: TrainingPairs, batch: Batch, number: int) -> float:
        """Take step `number` (from 0) with this batch; return its loss.

        Raises NightshiftError when the loss is not finite; the weights are then as they were.
        """
        self._train()
        # Dropout depends on the step and the process alone, also after a resume.
        torch.manual_seed(self.settings.seed * 1_000_003 + number * self.ranks.size + self.ranks.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate(number, self.steps, self.settings.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        value = add_gradients(self.encoder, data, batch, self.loss, self.settings, self.ranks)
        if not math.isfinite(value):
            raise NightshiftError(f"the loss is {value} at step {number + 1}: lower [training] learning_rate")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return value

    def pace(self, ids: TokenIds) -> float:
        """Tokens a second that go through the passage tower and back as in a step; the weights stay."""
        begin = time.perf_counter()
        self._train()
        autocast = numeric(self.settings, self.device)
        forward = Forward([(self.encoder.passage, ids)], _chunk_tokens(self.device), keep=True, autocast=autocast)
        forward.backward([torch.ones_like(vectors) for vectors in forward.vectors])
        self.optimizer.zero_grad(set_to_none=True)
        return sum(map(len, ids)) / (time.perf_counter() - begin)

    def _train(self) -> None:
        for tower in (self.encoder.query, self.encoder.passage):
            tower.set_dropout(self.settings.dropout)
            tower.train()


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: a linear rise over the first `warmup` of the steps, then a linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


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
        own, _chunk_tokens(device), keep=tokens <= settings.memory_tokens, autocast=numeric(settings, device)
    )
    queries, passages = (ranks.gather(part, share) for part, share in zip(forward.vectors, shares, strict=True))
    value = loss(queries, passages, _relations(batch, device))
    forward.backward(_gradients(value, forward.vectors))
    ranks.sum_gradients(parameter for tower in encoder.towers.values() for parameter in tower.parameters())
    return value.item()


def numeric(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context in which a transformer runs: bf16 matrix products over float32 weights, or plain float32."""
    bf16 = _in_bf16(settings)
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def _in_bf16(settings: TrainingSettings) -> bool:
    return settings.precision == "bf16" or (settings.precision == "auto" and has_bf16())


def _choose_attention(encoder: DualEncoder, settings: TrainingSettings, device: torch.device) -> None:
    """Plain matrix products in place of torch's fused attention where they are faster.

    In bf16 on a CPU the fused one is slow, most of all backwards: without it a step of MiniLM is 1.4 times as fast.
    The price is memory in the square of a text's length, so not for long texts.
    """
    for tower in (encoder.query, encoder.passage):
        if device.type == "cpu" and _in_bf16(settings) and tower.max_tokens <= SHORT:
            tower.transformer.set_attn_implementation("eager")


def _chunk_tokens(device: torch.device) -> int:
    """Padded tokens that go through at once: on a CPU what the caches of its cores hold, on a GPU what keeps it busy.

    On one core 1,024 are a quarter faster than 4,096, and cost less padding.
    """
    return 16_384 if device.type == "cuda" else max(1024, 512 * torch.get_num_threads())


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    # Decay pulls on matrices only: on biases and norms it would change what they are for.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


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
