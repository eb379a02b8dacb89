"""OpenVINO on a CPU: each core takes micro-batches of its own, one after the other.

A core that works alone keeps its activations in its own cache and waits for no other; and a vector is the same to the
last bit however many cores there are.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.core.base.sections.embedding import Precision
from tasks.core.encoder.backends.batches import micro_batches
from tasks.core.encoder.backends.graph import import_openvino


class OpenVino:
    """A graph that `backends.graph` made, ready to encode."""

    def __init__(self, graph: Any, path: Precision, pad: int, longest: int, threads: int) -> None:
        """Compile the graph. `pad`: token id that fills rows up; `longest`: tokens that it has positions for."""
        openvino = import_openvino()
        compiled = openvino.Core().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if path.endswith("bf16") else "f32",
                # Pinned cores are always the first ones: two processes would share one and leave others idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._dimension = compiled.output(0).partial_shape[1].get_length()
        self._queue = openvino.AsyncInferQueue(compiled, threads)
        self._pad, self._longest = pad, longest
        self._one_caller = threading.Lock()

    def encode(self, ids: Sequence[Sequence[int]], token_budget: int) -> np.ndarray:
        """Vectors float32 (n, dimension) in the order of `ids`; at most `token_budget` padded tokens a micro-batch."""
        vectors = np.zeros((len(ids), self._dimension), np.float32)
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))

        def keep(request: Any, rows: np.ndarray) -> None:
            vectors[rows] = request.get_output_tensor().data

        with self._one_caller:
            self._queue.set_callback(keep)
            for rows, width in micro_batches(lengths, self._longest, token_budget):
                tokens = np.full((len(rows), width), self._pad, np.int32)
                for line, row in zip(tokens, rows.tolist(), strict=True):
                    line[: lengths[row]] = ids[row]
                self._queue.start_async([tokens, lengths[rows]], rows)
            self._queue.wait_all()
        return vectors
