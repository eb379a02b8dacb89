"""Several processes that share each batch: who encodes what, and the two collectives of a step.

Every process knows the whole batch, encodes its share, gathers the vectors of all and takes the loss of the whole
batch; it follows the gradient of its own vectors alone into the weights. The sum over processes is then the gradient
of the whole batch, and one all-reduce a step makes it.
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
    """This process among `size` of them."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True for the one process that writes and speaks."""
        return self.rank == 0

    def shares(self, lengths: Sequence[int]) -> list[Tensor]:
        """Which of so many texts each process encodes: int64, one tensor a process, about equal in tokens."""
        if self.size == 1:
            return [torch.arange(len(lengths))]
        order = np.argsort(np.array(lengths), kind="stable")
        return [torch.from_numpy(np.sort(order[rank :: self.size])) for rank in range(self.size)]

    def as_the_first(self, value: int) -> int:
        """What the first process gives, in all of them: hosts may see what lies in a shared folder at other times."""
        if self.size == 1:
            return value
        said = torch.tensor([value], device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.broadcast(said, src=0)
        return int(said.item())

    def gather(self, own: Tensor, shares: Sequence[Tensor]) -> Tensor:
        """The vectors (n, d) of all processes in the order of the texts; gradients reach `own` alone.

        own: float (len(shares[rank]), d). One collective.
        """
        if self.size == 1:
            return own
        most = max(len(share) for share in shares)
        padded = own.new_zeros(most, own.shape[1])
        padded[: len(own)] = own.detach()
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        others = own.new_zeros(sum(len(share) for share in shares), own.shape[1])
        for share, part in zip(shares, parts, strict=True):
            others[share.to(own.device)] = part[: len(share)]
        return others.index_copy(0, shares[self.rank].to(own.device), own)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the processes: one all-reduce of all of them, laid end to end."""
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
    """Join the processes that `torchrun` started; alone when it started none.

    Ray Train joins those that it started, each on its device, before they get here, and parts them itself.
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
