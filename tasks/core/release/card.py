"""The model card of a released encoder, in Hugging Face's format. It is stored next to the manifest of the release.

A card is never part of an encoder's artifact: no fingerprint and no checksum depends on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.base.files import load
from tasks.core.base.receipts import Encoder, Evaluation, Release, Snapshot
from tasks.core.base.resolved_settings import LOCAL
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.encoder.dual_encoder import read_spec
from tasks.core.evaluation.evaluate import read_per_query
from tasks.core.evaluation.measures import NAMES
from tasks.core.evaluation.own_measures import read_measures
from tasks.core.evaluation.significance import compare_paired, interval
from tasks.core.evaluation.systems import System
from tasks.core.release.names import CARD

TEMPLATE = Path(__file__).with_name("card.md.jinja")
RIVALS = {System.BM25: "BM25", System.BASE: "the base model", System.SERVING: "the previous release"}
RECIPE = ("training.", "mining.", "encoder.start", "encoder.train", "encoder.lora_rank")  # prefixes of settings

log = logging.getLogger("nightshift.release")


def write_card(
    home: Path, release: Release, figures: Mapping[System, Evaluation] | None = None, gate: GateSettings | None = None
) -> Path:
    """Write the card of a release next to its manifest; return its path.

    Args:
        home: folder of the artifacts.
        release: a release whose encoder and snapshot are kept.
        figures: evaluations of the night that made the release; without them, the card has means without intervals.
        gate: confidence, number of resamples, and seed of the intervals. Needed with `figures`.

    Raises:
        Mismatch: the encoder or the snapshot was deleted.
        Damaged: the encoder or the snapshot is damaged.
    """
    path = home / Release.shelf / release.release / CARD
    temporary = path.with_name(f".{CARD}.{os.getpid()}")
    temporary.write_text(render_card(home, release, figures, gate), encoding="utf-8")
    temporary.replace(path)
    return path


def read_card(home: Path, release: Release) -> str:
    """Return the card of a release; written now, without intervals, if an earlier version made the release.

    Raises:
        Mismatch: as `write_card`.
        Damaged: as `write_card`.
    """
    path = home / Release.shelf / release.release / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else render_card(home, release)


def render_card(
    home: Path,
    release: Release,
    figures: Mapping[System, Evaluation] | None = None,
    gate: GateSettings | None = None,
) -> str:
    """Return the card as Markdown with YAML metadata; see `write_card`."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    encoder, snapshot = load(home, Encoder, release.encoder), load(home, Snapshot, release.snapshot)
    split = str(release.settings.get("evaluation.split", "test"))
    base = encoder.base if not Path(encoder.base).is_absolute() else Path(encoder.base).name
    name = f"nightshift-{release.release}"
    results = [
        EvalResult(
            task_type="text-retrieval",
            dataset_type="private",
            dataset_name=f"Nightshift snapshot {snapshot.digest}",
            dataset_split=split,
            metric_type=key,
            metric_name=NAMES.get(key, key),
            metric_value=round(value, 4),
        )
        for key, value in release.metrics.items()
    ]
    data = ModelCardData(
        language=str(release.settings.get("mining.language", "en")),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "dense-retrieval", "nightshift"],
        base_model=base if encoder.base == base else None,  # the hub accepts only names of its models
        model_name=name,
        eval_results=results or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        release=release,
        encoder=encoder,
        base=base,
        snapshot=snapshot,
        spec=read_spec(encoder.path),
        split=split,
        measures=_measures(release, figures, gate),
        compared=_compared(home, snapshot, figures, gate),
        confidence=gate.confidence if figures and gate else None,
        recipe=recipe_of(release),
    )
    return str(card)


def recipe_of(release: Release) -> dict[str, Any]:
    """Return the settings that shaped the encoder, by dotted name; empty for releases of earlier versions.

    Of a path on this machine, only the last part is kept.
    """
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in release.settings.items()
        if name.startswith(RECIPE) and name not in LOCAL and value not in ("", None, [], {})
    }


def _measures(
    release: Release, figures: Mapping[System, Evaluation] | None, gate: GateSettings | None
) -> list[dict[str, str]]:
    """Return one row per measure: its label, our mean with its interval, and the means of the rivals."""
    table = read_per_query(figures[System.CHALLENGER]) if figures and gate else None
    rivals = {"bm25": release.bm25, "base": release.base, "previous": release.previous or {}}
    rows = []
    for key, mean in release.metrics.items():
        row = {name: f"{means[key]:.4f}" if key in means else "–" for name, means in rivals.items()}
        rows.append({"label": NAMES.get(key, key), "mean": f"{mean:.4f}{_interval(table, key, gate)}", **row})
    return rows


def _interval(table: pa.Table | None, key: str, gate: GateSettings | None) -> str:
    if table is None or gate is None or key not in table.column_names:
        return ""
    low, high = interval(table[key].to_numpy(), gate)
    return f" ({low:.4f} to {high:.4f})"


def _compared(
    home: Path, snapshot: Snapshot, figures: Mapping[System, Evaluation] | None, gate: GateSettings | None
) -> list[str]:
    """Return the paired comparisons of the release with its rivals as sentences."""
    if not figures or gate is None:
        return []
    tables = {system: read_measures(home, figure, snapshot, gate) for system, figure in figures.items()}
    return [
        f"Compared with {label}: {compare_paired(label, tables[System.CHALLENGER], tables[system], gate)}."
        for system, label in RIVALS.items()
        if system in tables
    ]
