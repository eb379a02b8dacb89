"""A cross-encoder as the last judge: it reads query and passage together (RocketQA's denoising, Qu et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import digest_of, file_digest, files_under
from tasks.core.base.settings import CrossEncoderSettings

log = logging.getLogger("nightshift.mining")

TOKEN_BUDGET = 4096  # padded tokens in one forward pass
DIGITS = 4  # of a probability that count: the last bits of a sum must not decide


def find_cross_encoder(settings: CrossEncoderSettings) -> Path:
    """The local folder of the model: a folder, or what the hub has under that id.

    Raises NightshiftError when there is no such model, or only one with pickled weights.
    """
    from tasks.core.encoder.base_model import find_base

    try:
        return find_base(settings.model)
    except NightshiftError as error:
        raise NightshiftError(f"[mining.cross_encoder] model = {settings.model!r}: {error}") from error


def cross_encoder_digest(folder: Path) -> str:
    """Name the model by the bytes of its weights, config and tokenizer."""
    wanted = {".safetensors", ".json", ".txt", ".model"}
    files = [file for file in files_under(folder) if file.suffix in wanted]
    return digest_of({str(file.relative_to(folder)): file_digest(file) for file in files})


class CrossEncoder:
    """Probabilities that passages are relevant to queries, from a sequence classification model.

    With one logit its sigmoid counts; with two the softmax of the second, as trainers number the classes
    "irrelevant, relevant". Raises NightshiftError for another number of logits and for missing weights.
    """

    def __init__(self, folder: Path, tokens: int) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        if loading["missing_keys"]:
            raise NightshiftError(
                f"cross-encoder {folder}: {len(loading['missing_keys'])} weights are not in its safetensors"
                f" ({', '.join(sorted(loading['missing_keys'])[:3])} …). It would judge at random: give"
                " [mining.cross_encoder] model a sequence classification model."
            )
        if model.config.num_labels not in (1, 2):
            raise NightshiftError(
                f"cross-encoder {folder}: {model.config.num_labels} classes, where 1 (a score) or 2 (irrelevant,"
                " relevant) are understood. Give [mining.cross_encoder] model another one."
            )
        self.model: Any = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens = min(tokens, getattr(model.config, "max_position_embeddings", tokens))

    def probabilities(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Probabilities float32 (n,), to four digits, that passages[i] answers queries[i]. Long pairs are cut."""
        import torch

        result = np.zeros(len(queries), np.float32)
        if not queries:
            return result
        encoded = self.tokenizer(list(queries), list(passages), truncation=True, max_length=self.tokens)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        with torch.inference_mode():
            for rows in _batches(order, lengths):
                some = self.tokenizer.pad({name: [encoded[name][row] for row in rows] for name in encoded})
                tensors = {name: torch.tensor(values).to(self.model.device) for name, values in some.items()}
                logits = self.model(**tensors).logits.double()
                relevant = logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1]
                result[rows] = np.round(relevant.cpu().numpy(), DIGITS)
        return result


def _batches(order: list[int], lengths: list[int]) -> list[list[int]]:
    """Cut `order` (rows by rising length) where rows × longest would pass the budget."""
    batches: list[list[int]] = []
    for row in order:
        if batches and (len(batches[-1]) + 1) * lengths[row] <= TOKEN_BUDGET:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
