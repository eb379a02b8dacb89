"""Encode with OpenVINO on a CPU: each core processes one micro-batch at a time.

A core that works alone keeps activations in its own cache and never waits for another core. Vectors are bit-identical
on any number of cores.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.core.base.sections.embedding import BF16, Precision
from tasks.core.encoder.backends.batches import micro_batches
from tasks.core.encoder.backends.graph import import_openvino


class OpenVino:
    """Encodes with a compiled graph from `backends.graph`."""

    def __init__(self, graph: Any, path: Precision, pad: int, longest: int, threads: int) -> None:
        """Compile the graph. `pad`: id of the padding token; `longest`: maximum number of input tokens."""
        openvino = import_openvino()
        compiled = openvino.Core().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if path in BF16 else "f32",
                # Pinning starts at core 0 in every process: two processes would share cores and leave others idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self.dimension = compiled.output(0).partial_shape[1].get_length()
        self._queue = openvino.AsyncInferQueue(compiled, threads)
        self._pad, self._longest = pad, longest
        self._lock = threading.Lock()

    def encode(self, ids: Sequence[Sequence[int]], token_budget: int) -> np.ndarray:
        """Return vectors float32 (n, dimension), in the order of `ids`; `token_budget`: padded tokens in a batch."""
        vectors = np.zeros((len(ids), self.dimension), np.float32)
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))

        def keep(request: Any, rows: np.ndarray) -> None:
            vectors[rows] = request.get_output_tensor().data

        with self._lock:
            self._queue.set_callback(keep)
            for rows, width in micro_batches(lengths, self._longest, token_budget):
                tokens = np.full((len(rows), width), self._pad, np.int32)
                for line, row in zip(tokens, rows.tolist(), strict=True):
                    line[: lengths[row]] = ids[row]
                self._queue.start_async([tokens, lengths[rows]], rows)
            self._queue.wait_all()
        return vectors
