"""Training processes that share each batch: the shard of each process, and the two collectives of a step.

Every process has the whole batch. It encodes its shard, gathers the vectors of all processes, and computes the loss of
the whole batch. It backpropagates only through its own vectors. One all-reduce per step sums these gradients to the
gradient of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among `size` training processes."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and logs (rank 0)."""
        return self.rank == 0

    def shards(self, lengths: Sequence[int]) -> list[Tensor]:
        """Split texts into one shard per process, about equal in tokens.

        Args:
            lengths: tokens of each text.

        Returns:
            Rows of the texts, int64, one tensor per process.
        """
        if self.size == 1:
            return [torch.arange(len(lengths))]
        order = np.argsort(np.array(lengths), kind="stable")
        return [torch.from_numpy(np.sort(order[rank :: self.size])) for rank in range(self.size)]

    def broadcast(self, value: int) -> int:
        """Broadcast a value from rank 0 to all ranks; hosts may see a shared folder change at different times."""
        if self.size == 1:
            return value
        message = torch.tensor([value], device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.broadcast(message, src=0)
        return int(message.item())

    def gather(self, local: Tensor, shards: Sequence[Tensor]) -> Tensor:
        """Gather the vectors of all processes with one collective; gradients flow only into `local`.

        Args:
            local: float (len(shards[rank]), d), the vectors of this process.
            shards: rows of each process, from `Ranks.shards`.

        Returns:
            float (n, d), in the order of the texts.
        """
        if self.size == 1:
            return local
        longest = max(len(shard) for shard in shards)
        padded = local.new_zeros(longest, local.shape[1])
        padded[: len(local)] = local.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        vectors = local.new_zeros(sum(len(shard) for shard in shards), local.shape[1])
        for shard, part in zip(shards, parts, strict=True):
            vectors[shard.to(local.device)] = part[: len(shard)]
        return vectors.index_copy(0, shards[self.rank].to(local.device), local)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over all processes, with one all-reduce of the concatenated gradients."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()


@contextmanager
def join_process_group() -> Iterator[Ranks]:
    """Join the process group of `torchrun`, and leave it at the end. Without torchrun, use one process.

    Ray Train initializes and destroys its process group itself.
    """
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
