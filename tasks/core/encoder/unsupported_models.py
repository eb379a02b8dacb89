"""Name the kinds of models that Nightshift does not support, with the reason, before anything is loaded from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.core.base.errors import NightshiftError
from tasks.core.encoder.model_files import PROMPTS, read_if_present, read_steps

SPARSE = (
    "a sparse encoder (SPLADE): its vectors have a number for each word of a vocabulary, and Nightshift's are dense"
)
MULTI_VECTOR = "a multi-vector encoder (ColBERT): it gives a vector for each token, and Nightshift stores one per text"
ROUTER = (
    "two models behind a Router. Set shared = false, [encoder] query_model to its folder of the query model, and "
    "[encoder] model to that of the document model"
)
IMAGES = "a model of images and texts, and Nightshift reads models of texts alone"
STATIC = "a table of word vectors without a transformer, which Nightshift cannot train"

KINDS = {  # model_type in config_sentence_transformers.json → reason
    "SparseEncoder": SPARSE,
    "MultiVectorEncoder": MULTI_VECTOR,
    "ColBERT": MULTI_VECTOR,
}
STEPS = {  # class of a step → reason
    "SpladePooling": SPARSE,
    "MLMTransformer": SPARSE,
    "SparseAutoEncoder": SPARSE,
    "SparseStaticEmbedding": SPARSE,
    "MultiVectorMask": MULTI_VECTOR,
    "ColBERT": MULTI_VECTOR,
    "Router": ROUTER,
    "Asym": ROUTER,
    "CLIPModel": IMAGES,
    "StaticEmbedding": STATIC,
    "WordEmbeddings": STATIC,
    "BoW": STATIC,
}


def check_kind(folder: Path) -> None:
    """Raise NightshiftError, with the reason, when the model in `folder` is of a kind that is not supported.

    Cross-encoders pass, because mining uses them. A model whose architecture transformers does not know is refused if
    it needs its own code, which is never run.
    """
    for reason in _reasons(folder):
        raise NightshiftError(f"model {folder}: is {reason}. Set [encoder] model to a dense embedding model of texts.")


def _reasons(folder: Path) -> Iterator[str]:
    saved, config = read_if_present(folder / PROMPTS), read_if_present(folder / "config.json")
    yield from (KINDS[kind] for kind in [saved.get("model_type")] if kind in KINDS)
    for type_, _ in read_steps(folder):
        if type_.startswith("pylate."):
            yield MULTI_VECTOR
        elif (name := type_.rpartition(".")[2]) in STEPS:
            yield STEPS[name]
    if any("ColBERT" in str(name) for name in config.get("architectures") or ()):
        yield MULTI_VECTOR
    if "vision_config" in config or "audio_config" in config:
        yield IMAGES
    if "auto_map" in config and not _is_known(config.get("model_type")):
        yield (
            f"of the architecture {config.get('model_type')!r}, which needs code from its own folder (auto_map in "
            "config.json). Code of a model is never run"
        )


def _is_known(model_type: object) -> bool:
    from transformers import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING
