"""Measure the fastest matrix product of this machine, as the reference for encoder speed."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import numpy as np

LAYERS = 8
SHAPES = ((1024, 1024), (512, 2048), (1024, 768), (2048, 384))  # rows, and the side of the square matrix


@cache
def cpu_peak(kind: str) -> float:
    """Measure GFLOPS per CPU-second of a core in "float32", "bfloat16", or "int8": the best of OpenVINO and torch.

    OpenVINO multiplies LAYERS times in a row, so int8 includes the rounding of each product for the next.
    """
    return max(_openvino(kind), 0.0 if kind == "int8" else _torch(kind))


@cache
def cuda_peak() -> float:
    """Measure GFLOPS of the GPU in bfloat16 with torch."""
    import torch

    best = 0.0
    for side in (4096, 8192):
        left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        for _ in range(5):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(10):
                left @ right
            torch.cuda.synchronize()
            best = max(best, 10 * 2 * side**3 / (time.perf_counter() - start) / 1e9)
    return best


def _openvino(kind: str) -> float:
    from tasks.core.encoder.backends.graph import import_openvino

    openvino = import_openvino()
    hint = "bf16" if kind == "bfloat16" else "f32"
    options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": hint}
    best = 0.0
    for rows, side in SHAPES:
        model = openvino.Core().compile_model(_chain(rows, side, kind == "int8"), "CPU", options)
        request = model.create_infer_request()
        values = [np.random.default_rng(0).standard_normal((rows, side), np.float32)]
        best = max(best, _rate(lambda: request.infer(values), LAYERS * 2 * rows * side * side))  # noqa: B023
    return best


def _chain(rows: int, side: int, quantized: bool) -> Any:
    import openvino
    from openvino import opset13

    def number(value: float) -> Any:
        return opset13.constant(np.float32(value))

    def in_8_bits(node: Any, bound: float, levels: int) -> Any:
        low, high = number(-bound), number(bound)
        return opset13.fake_quantize(node, low, high, low, high, levels) if quantized else node

    entry = state = opset13.parameter([rows, side], openvino.Type.f32)
    random = np.random.default_rng(1)
    for _ in range(LAYERS):
        weights = opset13.constant(random.standard_normal((side, side), np.float32) / np.float32(side**0.5))
        state = opset13.matmul(in_8_bits(state, 4.0, 256), in_8_bits(weights, 4 / side**0.5, 255), False, False)
    return openvino.Model([state], [entry])


def _torch(kind: str) -> float:
    import torch

    torch.set_num_threads(1)
    left, right = (torch.randn(1024, 1024, dtype=getattr(torch, kind)) for _ in range(2))
    return _rate(lambda: left @ right, 2 * 1024**3)


def _rate(work: Any, operations: float) -> float:
    work()
    seconds = []
    for _ in range(8):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return operations / min(seconds) / 1e9
