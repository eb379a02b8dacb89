"""Which numeric path this machine has, and whether it is faithful enough to be used."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from tasks.core.data.snapshot import passages
from tasks.core.data.text import full_text
from tasks.core.files import write_json
from tasks.core.receipts import Snapshot
from tasks.core.settings import EmbeddingSettings
from tasks.core.training.encoder import SPEC, DualEncoder, Precision, read_spec

log = logging.getLogger("nightshift.encoder")

SAMPLE = 64  # passages: enough to meet the texts that lose most


def has_bf16() -> bool:
    """True where bfloat16 matrix products run in hardware, so that they are faster than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_precision(folder: Path, snapshot: Snapshot, settings: EmbeddingSettings) -> tuple[Precision, float]:
    """Write the numeric path that the encoder in `folder` shall use into its spec; return it and its fidelity.

    Fidelity is the lowest cosine to fp32 over a sample of the snapshot's passages, on both sides of separate encoders.
    With "auto", bf16 is taken where the hardware has it and its fidelity is at least `min_cosine`; a path that was
    asked for by name is kept.
    """
    if settings.precision == "fp32" or (settings.precision == "auto" and not has_bf16()):
        return _write(folder, "fp32"), 1.0
    texts = _sample(snapshot)
    exact = _encode(folder, "fp32", texts)
    fast = _encode(folder, "bf16", texts)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(fast, axis=1)
    fidelity = float(((exact * fast).sum(axis=1) / norms).min())
    if settings.precision == "auto" and not fidelity >= settings.min_cosine:
        log.warning("bf16 is not faithful here (cosine %.5f < %s): staying with fp32", fidelity, settings.min_cosine)
        return _write(folder, "fp32"), 1.0
    return _write(folder, "bf16"), fidelity


def _sample(snapshot: Snapshot) -> list[str]:
    batch = next(iter(passages(snapshot)))
    picked = np.unique(np.linspace(0, batch.num_rows - 1, SAMPLE).astype(int))
    return [full_text(row["title"], row["text"]) for row in batch.take(picked).to_pylist()]


def _encode(folder: Path, precision: Precision, texts: list[str]) -> np.ndarray:
    encoder = DualEncoder(folder, read_spec(folder).model_copy(update={"precision": precision})).for_inference()
    vectors = encoder.encode_passages(texts)
    return vectors if encoder.spec.shared else np.concatenate([vectors, encoder.encode_queries(texts)])


def _write(folder: Path, precision: Precision) -> Precision:
    write_json(folder / SPEC, read_spec(folder).model_copy(update={"precision": precision}).model_dump())
    return precision
