"""A tower as an OpenVINO graph: token ids and lengths in, the vectors that are served out.

Pooling, projection, prefix and normalising are in the graph. Float graphs are made from the weights when an encoder
is loaded (0.6 s for MiniLM); an int8 graph depends on the texts it was calibrated with, so it is kept in the model
folder and is part of the fingerprint.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.encoder.hardware import INSTALL
from tasks.core.encoder.pooling import pool, prefix
from tasks.core.encoder.tower import Tower

FOLDER = "openvino"
XML = f"{FOLDER}/graph.xml"
BIN = f"{FOLDER}/graph.bin"


def import_openvino() -> Any:
    """The openvino module. It and nncf report their use over the network unless their reporter cannot be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # makes its import fail
    import openvino

    return openvino


def convert(tower: Tower) -> Any:
    """The graph of a tower of float32 weights on the CPU, an `openvino.Model`.

    Inputs: token ids int32 (n, longest), padded on the right, and lengths int32 (n,). Output: float32 (n, dimension).

    Raises NightshiftError when the model has an operation that OpenVINO lacks.
    """
    openvino = import_openvino()
    example = (torch.ones(2, 7, dtype=torch.int32), torch.tensor([7, 5], dtype=torch.int32))
    inputs = [([-1, -1], openvino.Type.i32), ([-1], openvino.Type.i32)]
    try:
        with _silence(), torch.no_grad():
            return openvino.convert_model(_Served(tower.eval()), example_input=example, input=inputs)
    except Exception as error:  # of many kinds, by what in the model has no counterpart
        kind = type(tower.transformer).__name__
        raise NightshiftError(f"openvino cannot take over this {kind} ({_reason(error)})") from error


def quantize(graph: Any, ids: Sequence[Sequence[int]]) -> Any:
    """The graph with weights and activations of matrix products in int8 (NNCF, static, SmoothQuant).

    ids: token ids of the texts that show how large activations get. The same texts give the same graph.

    Raises NightshiftError when nncf is not installed.
    """
    nncf = _import_nncf()
    samples = [(np.array([one], np.int32), np.array([len(one)], np.int32)) for one in ids]
    # Correcting biases as well took a third of the time and changed no cosine in its sixth digit.
    dials = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    with _silence():
        return nncf.quantize(
            graph,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=dials,
        )


def write(graph: Any, place: Path) -> None:
    """Write a graph into a model folder."""
    (place / FOLDER).mkdir(exist_ok=True)
    graph.set_friendly_name("encoder")
    for number, operation in enumerate(graph.get_ordered_ops()):
        operation.set_friendly_name(str(number))  # its own name counts the operations that this process has ever made
    import_openvino().save_model(graph, place / XML, compress_to_fp16=False)


def read(place: Path) -> Any:
    """The graph that a model folder holds.

    Raises Mismatch when there is none.
    """
    if not (place / XML).is_file() or not (place / BIN).is_file():
        raise Mismatch(f"encoder {place}: its numeric path is int8, and {XML} is not there. Make it anew.")
    return import_openvino().Core().read_model(place / XML)


class _Served(nn.Module):
    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        side, tower = self.tower.side, self.tower
        mask = torch.arange(ids.shape[1])[None, :] < lengths[:, None]
        states = tower.transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        vectors = pool(states, mask, side.pooling)
        if tower.projection is not None:
            vectors = tower.projection(vectors)
        if side.normalize:
            vectors = nn.functional.normalize(vectors, dim=-1)
        return prefix(vectors, tower.dimension, side.normalize)


def _reason(error: Exception) -> str:
    """The line of its message that says what failed: the one below "Exception:", where it hands on another's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    found = lines[lines.index("Exception:") + 1 :] if "Exception:" in lines else lines[-1:]
    return (found or lines)[0][:200]


def _import_nncf() -> Any:
    import_openvino()
    kind = logging.getLoggerClass()
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise NightshiftError(f"int8 needs nncf, which calibrates it: {INSTALL}") from error
    logging.setLoggerClass(kind)  # its import puts a class of its own in place for everyone
    nncf.disable_logging()
    return nncf


@contextlib.contextmanager
def _silence() -> Any:
    """Without progress bars and the tracer's remarks; a failed conversion does not raise the root logger's level."""
    import warnings

    level = logging.getLogger().level
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
