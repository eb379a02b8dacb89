"""One optimizer step, for any batch size and any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder
from tasks.core.encoder.hardware import has_bf16
from tasks.core.training.batches import Batch
from tasks.core.training.gradient_cache import Forward, TokenIds
from tasks.core.training.losses.choose import Loss, choose_loss, matryoshka
from tasks.core.training.losses.relations import Relations
from tasks.core.training.pairs import TrainingPairs
from tasks.core.training.ranks import Ranks
from tasks.core.training.stored_trunk import StoredTrunk
from tasks.core.training.word_gradients import make_dense, make_sparse

SHORT = 512  # tokens per text: longest for which unfused attention is used


class Stepper:
    """Update the weights of an encoder: AdamW with gradient clipping, linear warm-up, and linear decay."""

    def __init__(
        self,
        encoder: DualEncoder,
        settings: TrainingSettings,
        steps: int,
        ranks: Ranks,
        dimensions: tuple[int, ...] = (),
        stored: StoredTrunk | None = None,
    ) -> None:
        """Move the encoder to this process's device.

        Args:
            encoder: to train.
            settings: loss and optimizer.
            steps: length of the learning rate schedule.
            ranks: processes that train together.
            dimensions: sizes of the vector prefixes to train as well.
            stored: the passages, if only the map of their vectors is trained; None: encode them.
        """
        self.encoder, self.settings, self.steps, self.ranks = encoder, settings, steps, ranks
        self.stored = stored
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = nn.ModuleDict(dict(encoder.towers)).to(self.device)
        encoder.query.to(self.device)
        width = encoder.passage.transformer.config.hidden_size
        self.optimizer = _optimizer(self.model, settings, settings.rate_for(width))
        make_sparse(encoder)
        _choose_attention(encoder, settings, self.device)
        self.loss = matryoshka(choose_loss(settings), dimensions, normalize=encoder.spec.normalize)

    def step(self, data: TrainingPairs, batch: Batch, number: int) -> float:
        """Take one optimizer step.

        Args:
            data: training pairs with token ids.
            batch: rows of this step.
            number: index of the step, from 0.

        Returns:
            The loss of the batch.

        Raises:
            NightshiftError: the loss is not finite. The weights are unchanged.
        """
        self._train()
        # Seed dropout by step and rank, so a resumed run draws the same masks.
        torch.manual_seed(self.settings.seed * 1_000_003 + number * self.ranks.size + self.ranks.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate(number, self.steps, self.settings.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        value = add_gradients(self.encoder, data, batch, self.loss, self.settings, self.ranks, self.stored)
        if not math.isfinite(value):
            raise NightshiftError(f"the loss is {value} at step {number + 1}: lower [training] learning_rate")
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return value

    def pace(self, ids: TokenIds) -> float:
        """Measure the training speed of the passage tower, forward and backward, in tokens per second.

        The weights do not change.
        """
        begin = time.perf_counter()
        self._train()
        autocast = make_autocast(self.settings, self.device)
        forward = Forward([(self.encoder.passage, ids)], _chunk_tokens(self.device), keep=True, autocast=autocast)
        forward.backward([torch.ones_like(vectors) for vectors in forward.vectors])
        self.optimizer.zero_grad(set_to_none=True)
        return sum(map(len, ids)) / (time.perf_counter() - begin)

    def _train(self) -> None:
        for tower in (self.encoder.query, self.encoder.passage):
            tower.set_dropout(self.settings.dropout)
            tower.train()


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate of a step as a share of its peak.

    It rises linearly over the first `warmup` (share of all steps), then falls linearly to 0.
    """
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


def add_gradients(
    encoder: DualEncoder,
    data: TrainingPairs,
    batch: Batch,
    loss: Loss,
    settings: TrainingSettings,
    ranks: Ranks,
    stored: StoredTrunk | None = None,
) -> float:
    """Add the gradient of the batch's loss to the weights' `.grad`; return the loss.

    The result is the same as in one process with the whole batch in memory, for any `ranks` and `memory_tokens`.
    """
    device = encoder.query.device
    sides = (
        (encoder.query, data.query_tokens.take(batch.queries)),
        (encoder.passage, data.passage_tokens.take(batch.passages))
        if stored is None
        else (stored, stored.take(batch.passages)),
    )
    shards = [ranks.shards([len(text) for text in ids]) for _, ids in sides]
    local = [
        (tower, [ids[row] for row in shard[ranks.rank].tolist()])
        for (tower, ids), shard in zip(sides, shards, strict=True)
    ]
    tokens = sum(len(text) for _, ids in local for text in ids)
    forward = Forward(
        local, _chunk_tokens(device), keep=tokens <= settings.memory_tokens, autocast=make_autocast(settings, device)
    )
    queries, passages = (ranks.gather(vectors, shard) for vectors, shard in zip(forward.vectors, shards, strict=True))
    batch_loss = loss(queries, passages, _relations(batch, device))
    forward.backward(_gradients(batch_loss, forward.vectors))
    make_dense(encoder)
    ranks.sum_gradients(parameter for tower in encoder.towers.values() for parameter in tower.parameters())
    return batch_loss.item()


def make_autocast(settings: TrainingSettings, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Return a factory of autocast contexts: bf16 matrix products over float32 weights, or plain float32."""
    bf16 = in_bf16(settings)
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)


def in_bf16(settings: TrainingSettings) -> bool:
    """Return whether training computes matrix products in bf16 on this machine."""
    return settings.precision == "bf16" or (settings.precision == "auto" and has_bf16())


def _choose_attention(encoder: DualEncoder, settings: TrainingSettings, device: torch.device) -> None:
    """Replace torch's fused attention by plain matrix products where those are faster.

    Fused attention is slow in bf16 on CPUs, mainly in the backward pass: without it, a step of MiniLM is 1.4 times as
    fast. Plain attention needs memory quadratic in text length. Long texts keep fused attention.
    """
    for tower in (encoder.query, encoder.passage):
        if device.type == "cpu" and in_bf16(settings) and tower.max_tokens <= SHORT:
            tower.transformer.set_attn_implementation("eager")


def _chunk_tokens(device: torch.device) -> int:
    """Return the number of padded tokens per forward pass: fits the CPU caches, or keeps a GPU busy.

    On one core, 1,024 tokens are 25 % faster than 4,096, and waste less on padding.
    """
    return 16_384 if device.type == "cuda" else max(1024, 512 * torch.get_num_threads())


def _optimizer(model: nn.Module, settings: TrainingSettings, encoder_rate: float) -> torch.optim.Optimizer:
    # Apply weight decay to matrices only, not to biases and norms.
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = []
    for is_map, peak in ((False, encoder_rate), (True, settings.map_learning_rate)):
        parameters = [parameter for name, parameter in trained if (".passage_map." in name) == is_map]
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        others = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups += [{"params": matrices, "weight_decay": settings.weight_decay, "lr": peak, "peak": peak}]
        groups += [{"params": others, "weight_decay": 0.0, "lr": peak, "peak": peak}]
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def _gradients(value: Tensor, vectors: Sequence[Tensor]) -> list[Tensor | None]:
    trained = [tensor for tensor in vectors if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(value, trained))
    return [next(gradients) if tensor.requires_grad else None for tensor in vectors]


def _relations(batch: Batch, device: torch.device) -> Relations:
    return Relations(
        target=torch.arange(len(batch.queries), device=device),
        positive=torch.from_numpy(batch.positive).to(device),
        known=torch.from_numpy(batch.known).to(device),
        teacher=None if batch.teacher is None else torch.from_numpy(batch.teacher).to(device),
        weight=None if batch.weight is None else torch.from_numpy(batch.weight).to(device),
    )
