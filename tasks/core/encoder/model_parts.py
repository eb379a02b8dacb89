"""Read the parts of a tower from a model folder: tokenizer and transformer. Create new projections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tasks.core.base.errors import NightshiftError
from tasks.core.encoder.dense_module import Dense
from tasks.core.encoder.model_files import check_vocabulary

if TYPE_CHECKING:  # the model classes of transformers take seconds to import, and an encoder that serves needs none
    from transformers import PreTrainedModel


def read_transformer(folder: Path) -> PreTrainedModel:
    """Read the transformer in float32. For an encoder-decoder such as T5, read the encoder only.

    A pooler, which vectors do not need, may be missing and is never trained.

    Raises NightshiftError when other weights are missing or have another shape, or transformers cannot load the folder.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

    with _explained(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config.use_cache = False  # a decoder would cache keys and values, which only generation needs
        kind = AutoModelForTextEncoding if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING else AutoModel
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a missing pooler is initialized at random; a fixed seed keeps the fingerprint
            model, loading = kind.from_pretrained(
                folder,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # `_check_weights` reports them by name
                output_loading_info=True,
            )
    _check_weights(folder, loading)
    transformer: PreTrainedModel = model
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(not name.startswith("pooler."))
    return transformer


def _check_weights(folder: Path, loading: Mapping[str, Any]) -> None:
    """Raise NightshiftError when transformers initialized weights at random: missing ones, or ones of another shape."""
    shapes = {name: (tuple(stored), tuple(expected)) for name, stored, expected in loading["mismatched_keys"]}
    missing = sorted(name for name in {*loading["missing_keys"]} - shapes.keys() if not name.startswith("pooler."))
    if missing:
        raise NightshiftError(
            f"model {folder}: {len(missing)} weights are not in its safetensors ({', '.join(missing[:3])} …). "
            "Its vectors would be random: set [encoder] model to a complete folder."
        )
    for name, (stored, expected) in sorted(shapes.items()):
        if not name.startswith("pooler."):
            raise NightshiftError(
                f"model {folder}: config.json and its safetensors do not match ({name}: {expected} expected, "
                f"{stored} stored; {len(shapes)} weights in total). They belong to two models: copy both files from "
                "the same model."
            )


def read_tokenizer(folder: Path) -> Any:
    """Read the tokenizer, set it to pad on the right, and give it a padding token if it has none.

    Raises NightshiftError when the folder has no tokenizer, or one that transformers cannot load.
    """
    from transformers import AutoTokenizer

    check_vocabulary(folder)
    with _explained(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise NightshiftError(
            f"model {folder}: its tokenizer knows {len(tokenizer)} tokens, all of them special, so every word would be "
            "unknown. Copy the tokenizer's files again from the model."
        )
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Silence transformers, and turn any exception that it raises for a model folder into a NightshiftError."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # read_transformer checks for missing weights
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NightshiftError(
            f"model {folder}: transformers cannot load it ({reason}). Copy its files again from the model, or give "
            "another model."
        ) from error


def new_projection(width: int, dimension: int) -> Dense:
    """Create a linear map from `width` to `dimension` numbers: orthogonal, to preserve inner products, from seed 0."""
    projection = Dense(width, dimension)
    nn.init.orthogonal_(projection.weight, generator=torch.Generator().manual_seed(0))
    return projection


def longest_input(transformer: PreTrainedModel) -> int | None:
    """Return the maximum number of input tokens; None when positions are relative and so unlimited."""
    positions = getattr(transformer.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    table = getattr(getattr(transformer, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)  # RoBERTa and related models start positions at padding_idx + 1
    return positions if padding is None else positions - padding - 1
