"""The passage map: a small map of a frozen trunk's vectors, trained with the query encoder.

It maps vectors that are already normalized, and normalizes again. So the vectors of a new map are computed from the
stored vectors of the trunk, without encoding a passage. Training a map of stored vectors follows Drift-Adapter (2025),
which maps vectors of an old model into the space of a new one; here both are trained together.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.core.base.errors import NightshiftError
from tasks.core.encoder.model_parts import WEIGHT

MAP, SECOND = "5_Map", "6_Map"  # folders of the Dense steps
MAP_FILES = (f"{MAP}/model.safetensors", f"{SECOND}/model.safetensors")
BIAS = "linear.bias"


class DenseStep(NamedTuple):
    """A Dense step of the sentence-transformers layout."""

    weight: Tensor  # (out, in)
    bias: Tensor | None = None  # (out,)
    relu: bool = False  # relu after the linear map, or no activation


class PassageMap(nn.Module):
    """Map vectors x to W·x + b + V·relu(U·x + c), scaled to length 1 again if `normalize`.

    Without hidden units, the map is linear: W·x + b.
    """

    inner: nn.Parameter | None  # U: (hidden, width)
    offset: nn.Parameter | None  # c: (hidden,)
    outer: nn.Parameter | None  # V: (width, hidden)
    change: nn.Parameter | None  # of W, in training: (width, width)
    down: nn.Parameter | None  # of W, in training with a rank: (rank, width)
    up: nn.Parameter | None  # (width, rank)

    def __init__(self, width: int, hidden: int, *, normalize: bool) -> None:
        """Create the identity of vectors of `width` numbers, with `hidden` units that do not contribute yet."""
        super().__init__()
        self.normalize = normalize
        self.weight, self.bias = nn.Parameter(torch.eye(width)), nn.Parameter(torch.zeros(width))
        for name in ("inner", "offset", "outer", "change", "down", "up"):
            self.register_parameter(name, None)
        if hidden:
            generator = torch.Generator().manual_seed(0)
            self.inner = nn.Parameter(torch.randn(hidden, width, generator=generator))  # inputs have length 1
            self.offset = nn.Parameter(torch.zeros(hidden))
            self.outer = nn.Parameter(torch.zeros(width, hidden))

    @property
    def width(self) -> int:
        """Length of a vector."""
        return len(self.bias)

    @property
    def hidden(self) -> int:
        """Number of hidden units; 0: the map is linear."""
        return 0 if self.offset is None else len(self.offset)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (n, width); compute and return float32."""
        with torch.autocast(vectors.device.type, enabled=False):  # in float32, as in serving
            vectors = vectors.float()
            mapped = nn.functional.linear(vectors, self.matrix(), self.bias)
            if self.inner is not None:
                assert self.outer is not None
                units = torch.relu(nn.functional.linear(vectors, self.inner, self.offset))
                mapped = mapped + nn.functional.linear(units, self.outer)
            return nn.functional.normalize(mapped, dim=-1) if self.normalize else mapped

    def matrix(self) -> Tensor:
        """Return W, with the change that training added."""
        if self.change is not None:
            return self.weight + self.change
        if self.up is not None and self.down is not None:
            return self.weight + self.up @ self.down
        return self.weight

    def map_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Map vectors (n, width) in main memory, of any float type. Returns float32 (n, width)."""
        with torch.inference_mode():
            mapped: np.ndarray = self(torch.from_numpy(vectors.astype(np.float32)).to(self.bias.device)).cpu().numpy()
        return mapped

    def train_change(self, rank: int) -> None:
        """Train a change of W that starts at zero, in place, so that weight decay pulls the map to its start.

        rank: rank of the change, as in LoRA; 0: a full matrix.
        """
        self.weight.requires_grad_(False)
        if rank == 0:
            self.change = nn.Parameter(torch.zeros(self.width, self.width))
            return
        generator = torch.Generator().manual_seed(0)
        self.down = nn.Parameter(torch.randn(rank, self.width, generator=generator) / self.width**0.5)
        self.up = nn.Parameter(torch.zeros(self.width, rank))

    def steps(self) -> list[DenseStep]:
        """Return the map as Dense steps, which give the same vectors.

        Hidden units need two steps. The first also returns relu(x) and relu(-x), and the second subtracts them, because
        x = relu(x) - relu(-x).
        """
        matrix, bias = self.matrix().detach(), self.bias.detach()
        if self.inner is None or self.offset is None or self.outer is None:
            return [DenseStep(matrix, bias)]
        same = torch.eye(self.width, device=matrix.device)
        first = torch.cat([self.inner.detach(), same, -same])
        offset = torch.cat([self.offset.detach(), torch.zeros(2 * self.width, device=matrix.device)])
        second = torch.cat([self.outer.detach(), matrix, -matrix], dim=1)
        return [DenseStep(first, offset, relu=True), DenseStep(second, bias)]


def read_map(folder: Path, *, normalize: bool) -> PassageMap | None:
    """Read the map of a model folder; None if it has none."""
    file, second_file = (folder / name for name in MAP_FILES)
    if not file.is_file():
        return None
    first = load_file(file)
    if not second_file.is_file():
        linear = PassageMap(len(first[WEIGHT]), 0, normalize=normalize)
        return _filled(linear, {"weight": first[WEIGHT], "bias": first[BIAS]})
    second = load_file(second_file)
    width = len(second[WEIGHT])
    hidden = len(first[WEIGHT]) - 2 * width
    return _filled(
        PassageMap(width, hidden, normalize=normalize),
        {
            "weight": second[WEIGHT][:, hidden : hidden + width],
            "bias": second[BIAS],
            "inner": first[WEIGHT][:hidden],
            "offset": first[BIAS][:hidden],
            "outer": second[WEIGHT][:, :hidden],
        },
    )


def map_to_train(start: PassageMap | None, width: int, *, rank: int, hidden: int, normalize: bool) -> PassageMap:
    """Return the map that training starts from, with its trained parameters set: `start`, or the identity.

    Raises:
        NightshiftError: `start` has another number of hidden units.
    """
    if start is not None and start.hidden not in (0, hidden):
        raise NightshiftError(
            f"[encoder] map_hidden = {hidden}, but the map that training starts from has {start.hidden} hidden units: "
            'set start = "base" for one night'
        )
    trained = PassageMap(width, hidden, normalize=normalize)
    if start is not None:
        _filled(trained, start.state_dict())
    trained.train_change(rank)
    return trained


def _filled(passage_map: PassageMap, weights: dict[str, Tensor]) -> PassageMap:
    passage_map.load_state_dict(weights, strict=False)
    return passage_map
