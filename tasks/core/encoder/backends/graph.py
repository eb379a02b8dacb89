"""Convert a tower into an OpenVINO graph that maps token ids and lengths to served vectors.

The graph includes pooling, projection, prefix, and normalization. It is stored in the model folder, so an encoder that
serves is loaded without the model classes of transformers and without its weights. An int8 graph depends on its
calibration texts, so it is part of the fingerprint. A float graph follows from the weights: encoders of earlier
versions have none, and theirs is converted when they are loaded.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.sections.embedding import INT8, Precision
from tasks.core.encoder.hardware import INSTALL
from tasks.core.encoder.model_parts import longest_input
from tasks.core.encoder.pooling import pool, prefix
from tasks.core.encoder.tower import Tower

FOLDER = "openvino"
XML = f"{FOLDER}/graph.xml"
BIN = f"{FOLDER}/graph.bin"
FLOAT = f"{FOLDER}/float.xml"
LONGEST = ["nightshift", "longest_input"]  # recorded in a graph: maximum number of input tokens; 0: unlimited


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
            graph = openvino.convert_model(_Served(tower.eval()), example_input=example, input=inputs)
    except Exception as error:  # the type depends on the unsupported operation
        kind = type(tower.transformer).__name__
        raise NightshiftError(f"openvino cannot convert this {kind} ({_reason(error)})") from error
    graph.set_rt_info(longest_input(tower.transformer) or 0, LONGEST)
    return graph


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


def write(graph: Any, place: Path, name: str = XML) -> None:
    """Write a graph into the model folder `place`, as `XML` or `FLOAT`."""
    (place / FOLDER).mkdir(exist_ok=True)
    graph.set_friendly_name("encoder")
    for number, operation in enumerate(graph.get_ordered_ops()):
        operation.set_friendly_name(str(number))  # the default name depends on earlier conversions in this process
    import_openvino().save_model(graph, place / name, compress_to_fp16=False)


def read(place: Path, path: Precision) -> Any:
    """Read the graph of a numeric path in the model folder `place`; None if it has no float graph.

    Raises Mismatch when it has no int8 graph.
    """
    file = place / (XML if path in INT8 else FLOAT)
    if file.is_file() and file.with_suffix(".bin").is_file():
        return import_openvino().Core().read_model(file)
    if path in INT8:
        raise Mismatch(f"encoder {place}: its numeric path is int8, but its graph ({XML}) is missing. Rebuild it.")
    return None


def longest_of(graph: Any) -> int | None:
    """Return the maximum number of input tokens of a graph, 0 if unlimited; None if an earlier version wrote it."""
    return int(graph.get_rt_info(LONGEST).value) if graph.has_rt_info(LONGEST) else None


def copy(source: Path, place: Path, path: Precision) -> bool:
    """Copy the graph of a numeric path from a model folder to another; return False if it has none."""
    file = Path(XML if path in INT8 else FLOAT)
    if not (source / file).is_file():
        return False
    (place / FOLDER).mkdir(exist_ok=True)
    for part in (file, file.with_suffix(".bin")):
        shutil.copy2(source / part, place / part)
    return True


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
