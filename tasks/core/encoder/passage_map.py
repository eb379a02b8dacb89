"""The passage map: a small map of a frozen trunk's vectors, trained with the query encoder.

It maps vectors that are already normalized, and normalizes again. So the vectors of a new map are computed from the
stored vectors of the trunk, without encoding a passage. Vejendla, "Drift-Adapter" (EMNLP 2025), fits maps of the same
kinds between the query vectors of two finished models; here, the map is on the passage side and part of the training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.base.errors import NightshiftError
from tasks.core.encoder.dense_module import IDENTITY, Dense

MAPS = ("5_Map", "6_Map")  # folders of the Dense modules
MAP_FILES = tuple(f"{path}/model.safetensors" for path in MAPS)
CHANGE = ("change", "down", "up")  # parameters of a map that exist only while a change of W is trained
RELU = "torch.nn.modules.activation.ReLU"


class PassageMap(nn.Module):
    """Map vectors x of length 1 to W·x + b + V·relu(U·x + c), scaled to length 1 again.

    Without hidden units, the map is linear: W·x + b.
    """

    inner: nn.Parameter | None  # U: (hidden, width)
    offset: nn.Parameter | None  # c: (hidden,)
    outer: nn.Parameter | None  # V: (width, hidden)
    change: nn.Parameter | None  # of W, in training: (width, width)
    down: nn.Parameter | None  # of W, in training with a rank: (rank, width)
    up: nn.Parameter | None  # (width, rank)

    def __init__(self, width: int, hidden: int) -> None:
        """Create the identity of vectors of `width` numbers, with `hidden` units that do not contribute yet."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.eye(width)), nn.Parameter(torch.zeros(width))
        for name in ("inner", "offset", "outer", *CHANGE):
            self.register_parameter(name, None)
        if hidden:
            generator = torch.Generator().manual_seed(0)
            # An optimizer that takes steps of one size for each weight then changes the output by as much as W does.
            scale = min(1.0, 2 * width**0.5 / hidden)
            self.inner = nn.Parameter(scale * torch.randn(hidden, width, generator=generator))
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
            return nn.functional.normalize(mapped, dim=-1)

    @property
    def changes(self) -> bool:
        """Whether a change of W is trained."""
        return self.change is not None or self.up is not None

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

    def fold_change(self) -> None:
        """Add the trained change to W, in place; every other parameter stays."""
        self.weight = nn.Parameter(self.matrix().detach())
        for name in CHANGE:
            setattr(self, name, None)


def map_modules(passage_map: PassageMap | None) -> list[Dense]:
    """Return a map as Dense modules, which give the same vectors before normalization; an empty list for None.

    Hidden units need two modules. The first also returns relu(x) and relu(-x), and the second subtracts them, because
    x = relu(x) - relu(-x).
    """
    if passage_map is None:
        return []
    with torch.no_grad():
        matrix, bias = passage_map.matrix(), passage_map.bias
        if passage_map.inner is None or passage_map.offset is None or passage_map.outer is None:
            return [_dense(matrix, bias)]
        same, zeros = torch.eye(passage_map.width).to(matrix), torch.zeros(2 * passage_map.width).to(bias)
        first = _dense(torch.cat([passage_map.inner, same, -same]), torch.cat([passage_map.offset, zeros]), RELU)
        return [first, _dense(torch.cat([passage_map.outer, matrix, -matrix], dim=1), bias)]


def read_map(folder: Path) -> PassageMap | None:
    """Read the map of a model folder; None if it has none. Raises NightshiftError as `Dense.load`."""
    first, second = (folder / path for path in MAPS)
    if not first.is_dir():
        return None
    inner = Dense.load(first)
    if not second.is_dir():
        return _filled(PassageMap(inner.out_features, 0), {"weight": inner.weight, "bias": inner.bias})
    outer = Dense.load(second)
    width = outer.out_features
    hidden = inner.out_features - 2 * width
    return _filled(
        PassageMap(width, hidden),
        {
            "weight": outer.weight[:, hidden : hidden + width],
            "bias": outer.bias,
            "inner": inner.weight[:hidden],
            "offset": inner.bias[:hidden],
            "outer": outer.weight[:, :hidden],
        },
    )


def map_to_train(start: PassageMap | None, width: int, *, rank: int, hidden: int) -> PassageMap:
    """Return the map that training starts from, with its trained parameters set: `start`, or the identity.

    Raises:
        NightshiftError: `start` has another number of hidden units.
    """
    if start is not None and start.hidden not in (0, hidden):
        raise NightshiftError(
            f"[encoder] map_hidden = {hidden}, but the map that training starts from has {start.hidden} hidden units: "
            'set start = "base" for one night'
        )
    trained = widened(start, width, hidden)
    trained.train_change(rank)
    return trained


def widened(start: PassageMap | None, width: int, hidden: int) -> PassageMap:
    """Return a map that equals `start` (None: the identity), with `hidden` units; `start` has as many, or none."""
    wide = PassageMap(width, hidden)
    return wide if start is None else _filled(wide, start.state_dict())


def _filled(passage_map: PassageMap, weights: dict[str, Tensor]) -> PassageMap:
    passage_map.load_state_dict(weights, strict=False)
    return passage_map


def _dense(weight: Tensor, bias: Tensor, activation: str = IDENTITY) -> Dense:
    dense = Dense(weight.shape[1], weight.shape[0], bias=True, activation=activation)
    with torch.no_grad():
        dense.weight.copy_(weight)
        dense.bias.copy_(bias)
    return dense
