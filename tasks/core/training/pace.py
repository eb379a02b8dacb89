"""The pace of training on this machine: measured once for each home, machine, and kind of encoder, then recorded."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import file_digest, produce
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.base.settings import Settings, cores
from tasks.core.base.training_receipts import Pace
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
from tasks.core.snapshot.reader import passage_texts, qrels, queries
from tasks.core.snapshot.splits import Split
from tasks.core.training.budget import Recipe, Work, plan_recipe
from tasks.core.training.ranks import Ranks
from tasks.core.training.step import Stepper, in_bf16
from tasks.core.training.trainable import spec_to_train
from tasks.core.training.trainer import resolve_settings

SAMPLE = 256  # texts to measure
REPEATS = 3  # the fastest counts: other work on the machine only slows


def plan_within_budget(
    home: Path, base: Encoder, snapshot: Snapshot, settings: Settings, serving: Encoder | None = None
) -> Recipe:
    """Plan a training for `[training] minutes` at the recorded pace of this machine; see `plan_recipe`.

    Args:
        home: folder of the artifacts.
        base: the base encoder of the settings.
        snapshot: of the night.
        settings: all settings.
        serving: the serving encoder, if any. Training may start from it if it has the same base model and shape.
    """
    settings = resolve_settings(home, settings)
    pace = training_pace(home, base, snapshot, settings).tokens_per_second
    fits = serving is not None and serving.base == base.base and _fits(serving, settings)
    return plan_recipe(settings, _work_of(snapshot, base, settings), pace, has_serving=fits)


def _fits(serving: Encoder, settings: Settings) -> bool:
    try:
        spec_to_train(read_spec(serving.path), settings.encoder)
    except NightshiftError:
        return False
    return True


def training_pace(home: Path, encoder: Encoder, snapshot: Snapshot, settings: Settings) -> Pace:
    """Return the recorded pace of training an encoder like this one here; measure it if there is no record.

    The record is reused as long as it exists, also when the machine is busy or idle at another time. To measure again,
    delete its folder in `paces/`.
    """
    spec = spec_to_train(read_spec(encoder.path), settings.encoder)
    machine = _machine()
    key = {
        "machine": machine,
        "encoder": [file_digest(file) for file in sorted(encoder.path.rglob("config.json")) if _is_model(file)],
        "tokens": spec.passage_tokens,
        "bf16": in_bf16(settings.training),
        "dropout": settings.training.dropout > 0,
        "processes": settings.training.processes,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        dual = DualEncoder(encoder.path, spec)  # all weights are trained here, also if settings freeze some
        stepper = Stepper(dual, settings.training, 1, Ranks())
        ids = dual.passage.tokenize(list(islice(passage_texts(snapshot), SAMPLE)))
        stepper.pace(ids[:8])  # the first call compiles and allocates
        pace = max(stepper.pace(ids) for _ in range(REPEATS))
        gpus = max(1, settings.training.processes) if torch.cuda.is_available() else 1  # CPU processes share the cores
        return {"rows": len(ids), "tokens_per_second": float(f"{pace * gpus:.3g}"), "machine": machine}

    return produce(home, Pace, key, build)


def _work_of(snapshot: Snapshot, encoder: Encoder, settings: Settings) -> Work:
    """Return the sizes that decide how long training takes; token counts are means over the first texts."""
    dual = DualEncoder(encoder.path, spec_to_train(read_spec(encoder.path), settings.encoder))
    texts = queries(snapshot, Split.TRAIN)["text"].slice(0, SAMPLE).to_pylist()
    return Work(
        pairs=len(qrels(snapshot, Split.TRAIN)),
        passages=snapshot.rows,
        query_tokens=_mean_tokens(dual.query.tokenize(texts)),
        passage_tokens=_mean_tokens(dual.passage.tokenize(list(islice(passage_texts(snapshot), SAMPLE)))),
        dev_queries=snapshot.splits.get(Split.DEV, 0),
        width=dual.passage.transformer.config.hidden_size,
    )


def _mean_tokens(ids: list[list[int]]) -> float:
    return sum(map(len, ids)) / max(1, len(ids))


def _is_model(file: Path) -> bool:
    return (file.parent / "model.safetensors").exists()


def _machine() -> str:
    """Return a name of this machine's processor or GPU, with the number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {cores()} cores, {torch.get_num_threads()} threads"


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
