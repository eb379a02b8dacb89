"""Convert a tower into an OpenVINO graph that maps token ids and lengths to served vectors.

The graph includes pooling, projection, prefix, and normalization. Float graphs are converted from the weights when an
encoder is loaded (0.6 s for MiniLM). An int8 graph depends on its calibration texts, so it is stored in the model
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
    """Import openvino with telemetry off. openvino and nncf report their use over the network otherwise."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the import of the telemetry module fails
    import openvino

    return openvino


def convert(tower: Tower) -> Any:
    """Convert a tower with float32 weights on the CPU into an `openvino.Model`.

    Inputs of the graph: token ids int32 (n, longest), padded on the right, and lengths int32 (n,). Output: float32
    (n, dimension).

    Raises NightshiftError when the model has an operation that OpenVINO does not support.
    """
    openvino = import_openvino()
    example = (torch.ones(2, 7, dtype=torch.int32), torch.tensor([7, 5], dtype=torch.int32))
    inputs = [([-1, -1], openvino.Type.i32), ([-1], openvino.Type.i32)]
    try:
        with _silence(), torch.no_grad():
            return openvino.convert_model(_Served(tower.eval()), example_input=example, input=inputs)
    except Exception as error:  # the type depends on the unsupported operation
        kind = type(tower.transformer).__name__
        raise NightshiftError(f"openvino cannot convert this {kind} ({_reason(error)})") from error


def quantize(graph: Any, ids: Sequence[Sequence[int]]) -> Any:
    """Quantize weights and activations of matrix products to int8 (NNCF, static, SmoothQuant).

    ids: token ids of the calibration texts. The same texts give the same graph.

    Raises NightshiftError when nncf is not installed.
    """
    nncf = _import_nncf()
    samples = [(np.array([row], np.int32), np.array([len(row)], np.int32)) for row in ids]
    # Bias correction took a third of the time and changed no cosine by more than 1e-6.
    parameters = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    with _silence():
        return nncf.quantize(
            graph,
            nncf.Dataset(samples),
            subset_size=len(samples),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=parameters,
        )


def write(graph: Any, place: Path) -> None:
    """Write a graph into the model folder `place`."""
    (place / FOLDER).mkdir(exist_ok=True)
    graph.set_friendly_name("encoder")
    for number, operation in enumerate(graph.get_ordered_ops()):
        operation.set_friendly_name(str(number))  # the default name depends on earlier conversions in this process
    import_openvino().save_model(graph, place / XML, compress_to_fp16=False)


def read(place: Path) -> Any:
    """Read the graph in the model folder `place`.

    Raises Mismatch when there is none.
    """
    if not (place / XML).is_file() or not (place / BIN).is_file():
        raise Mismatch(f"encoder {place}: its numeric path is int8, but its graph ({XML}) is missing. Rebuild it.")
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
    """Return the line of the error message that states the cause: the line after "Exception:" if there is one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    causes = lines[lines.index("Exception:") + 1 :] if "Exception:" in lines else lines[-1:]
    return (causes or lines)[0][:200]


def _import_nncf() -> Any:
    import_openvino()
    kind = logging.getLoggerClass()
    try:
        import nncf
    except ModuleNotFoundError as error:
        raise NightshiftError(f"int8 needs nncf, which calibrates it: {INSTALL}") from error
    logging.setLoggerClass(kind)  # importing nncf replaces the logger class of the process
    nncf.disable_logging()
    return nncf


@contextlib.contextmanager
def _silence() -> Any:
    """Suppress progress bars and warnings of the tracer. Restore the root logger's level, also after a failure."""
    import warnings

    level = logging.getLogger().level
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().setLevel(level)
