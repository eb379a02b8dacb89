"""`Dense` modules of sentence-transformers: linear maps of the pooled vector, each with an optional activation.

A folder has one subfolder for each module, such as `2_Dense/`, with `config.json` and `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_json
from tasks.core.encoder.model_files import check_weight_file, read_if_present, read_steps

CUT = "3_Cut"  # a Dense module that Nightshift writes to cut vectors; it has no weights to train
PLAIN = "2_Dense/model.safetensors"
WEIGHT, BIAS = "linear.weight", "linear.bias"
IDENTITY = "torch.nn.modules.linear.Identity"
ACTIVATIONS: dict[str, type[nn.Module]] = {
    IDENTITY: nn.Identity,
    **{
        f"torch.nn.modules.activation.{kind.__name__}": kind
        for kind in (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish)
    },
}
# Values of a config that sentence-transformers leaves out.
DEFAULTS = {
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
    "use_residual": False,
    "module_input_name": "sentence_embedding",
}


class Dense(nn.Linear):
    """A linear map from `in_features` to `out_features` numbers, followed by an activation.

    activation: name of a torch class, a key of `ACTIVATIONS`.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False, activation: str = IDENTITY) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]()

    @property
    def is_plain(self) -> bool:
        """True for a linear map without bias and activation."""
        return self.bias is None and self.activation_name == IDENTITY

    def forward(self, vectors: Tensor) -> Tensor:
        """Map vectors (n, in_features) to (n, out_features)."""
        mapped: Tensor = self.activation(super().forward(vectors))
        return mapped

    @classmethod
    def load(cls, folder: Path) -> Dense:
        """Read the module in `folder`, in float32.

        Raises NightshiftError when `why_unsupported` gives a reason, or a file is missing or damaged.
        """
        if reason := why_unsupported(folder):
            raise NightshiftError(f"{folder}: {reason}")
        config = read_dense_config(folder)
        check_weight_file(folder / "model.safetensors")
        weights = load_file(folder / "model.safetensors")
        stored, expected = tuple(weights[WEIGHT].shape), (int(config["out_features"]), int(config["in_features"]))
        if stored != expected or config["bias"] != (BIAS in weights):
            raise NightshiftError(
                f"{folder}: config.json and model.safetensors do not match ({expected} expected, {stored} stored; "
                f"bias {config['bias']}). Copy both files again from the model."
            )
        dense = cls(expected[1], expected[0], bias=config["bias"], activation=activation_of(config))
        with torch.no_grad():
            dense.weight.copy_(weights[WEIGHT])
            if dense.bias is not None:
                dense.bias.copy_(weights[BIAS])
        return dense

    def save(self, folder: Path) -> None:
        """Write the module into `folder`, as sentence-transformers reads it: weights in safetensors, float32."""
        config = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "activation_function": self.activation_name,
        }
        write_json(folder / "config.json", config)
        weights = {WEIGHT: self.weight} if self.bias is None else {WEIGHT: self.weight, BIAS: self.bias}
        tensors = {name: value.detach().float().contiguous().cpu() for name, value in weights.items()}
        save_file(tensors, folder / "model.safetensors")


class DenseChain(nn.Sequential):
    """Several Dense modules in sequence."""

    @property
    def in_features(self) -> int:
        """Length of an input vector."""
        return dense_modules(self)[0].in_features

    @property
    def out_features(self) -> int:
        """Length of an output vector."""
        return dense_modules(self)[-1].out_features


Projection = Dense | DenseChain


def join(modules: Sequence[Dense]) -> Projection | None:
    """Return the modules as one; None if there are none. A single module keeps its parameter names."""
    if len(modules) < 2:
        return modules[0] if modules else None
    return DenseChain(*modules)


def dense_modules(projection: Projection | None) -> list[Dense]:
    """Return the modules of a projection, in order."""
    if projection is None:
        return []
    if isinstance(projection, Dense):
        return [projection]
    return [module for module in projection if isinstance(module, Dense)]


def cut_module(dimension: int, width: int) -> Dense:
    """Create the module that keeps the first `dimension` of `width` numbers."""
    dense = Dense(width, dimension)
    with torch.no_grad():
        dense.weight.copy_(torch.eye(dimension, width))
    return dense


def dense_path(number: int) -> str:
    """Return the subfolder that Nightshift writes Dense module `number` (from 0) into."""
    return f"{number + 2}_Dense"


def listed_dense(folder: Path) -> list[str]:
    """Return the subfolders of the Dense modules that `modules.json` lists before a Normalize module, in order.

    The module that cuts vectors is left out.
    """
    steps = read_steps(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in steps]
    end = kinds.index("Normalize") if "Normalize" in kinds else len(kinds)
    return [path for kind, (_, path) in zip(kinds[:end], steps, strict=False) if kind == "Dense" and path != CUT]


def load_projection(folder: Path) -> Projection | None:
    """Read the Dense modules of a model folder; None if it lists none. Raises NightshiftError as `Dense.load`."""
    return join([Dense.load(folder / path) for path in listed_dense(folder)])


def save_projection(projection: Projection | None, folder: Path) -> None:
    """Write the Dense modules of a tower into its model folder."""
    for number, dense in enumerate(dense_modules(projection)):
        dense.save(folder / dense_path(number))


def decisive_dense_files(folder: Path) -> list[Path]:
    """Return the files of Dense modules that determine vectors.

    The configuration of one linear map without bias and activation adds nothing to its weights. It is left out,
    as in releases that knew no other module.
    """
    paths = [path for path in listed_dense(folder) if (folder / path).is_dir()]
    files = [folder / path / "model.safetensors" for path in paths]
    if len(paths) > 1 or not all(_is_plain(read_dense_config(folder / path)) for path in paths):
        files += [folder / path / "config.json" for path in paths]
    return [file for file in files if file.is_file()]


def why_unsupported(folder: Path) -> str:
    """Return why the module in `folder` cannot be used; an empty string if it can."""
    config = read_dense_config(folder)
    if config["module_input_name"] != "sentence_embedding":
        return f"maps {config['module_input_name']}, not the pooled vector"
    if config.get("module_output_name") not in (None, "sentence_embedding"):
        return f"writes {config['module_output_name']}, not the vector of the text"
    if config["use_residual"]:
        return "has a residual connection"
    if activation_of(config) not in ACTIVATIONS:
        return f"has the activation {config['activation_function']}"
    if not (folder / "model.safetensors").is_file():
        return "has no model.safetensors, and pickled weights are never loaded"
    return ""


def activation_of(config: dict[str, Any]) -> str:
    """Return the full class name of the activation in a Dense config, a key of `ACTIVATIONS` if it is supported."""
    name = config["activation_function"] or IDENTITY
    short = {f"torch.nn.{kind.__name__}": full for full, kind in ACTIVATIONS.items()}
    return str(short.get(name, name))


def read_dense_config(folder: Path) -> dict[str, Any]:
    """Read the config of a Dense module, with the defaults of sentence-transformers for missing values."""
    return {**DEFAULTS, **read_if_present(folder / "config.json")}


def _is_plain(config: dict[str, Any]) -> bool:
    return not config["bias"] and activation_of(config) == IDENTITY
