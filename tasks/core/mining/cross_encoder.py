"""Refuse likely false negatives with a cross-encoder (denoised hard negatives of RocketQA, Qu et al. 2021)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import digest_of, file_digest, files_under
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.mining import CrossEncoderSettings
from tasks.core.encoder.backends.batches import padded_batches
from tasks.core.mining.choice import ScorePairs
from tasks.core.mining.passage_texts import texts_of

log = logging.getLogger("nightshift.mining")

TOKEN_BUDGET = 4096  # padded tokens in one forward pass
DIGITS = 4  # of a probability or log-odds: rounding errors must not decide


def find_cross_encoder(settings: CrossEncoderSettings) -> Path:
    """Return the local folder of the model, which the settings name by folder or Hugging Face id.

    Raises:
        NightshiftError: there is no such model, or its weights are only available in pickle format.
    """
    from tasks.core.encoder.base_model import find_base

    try:
        return find_base(settings.model)
    except NightshiftError as error:
        raise NightshiftError(f"[mining.cross_encoder] model = {settings.model!r}: {error}") from error


def cross_encoder_digest(folder: Path) -> str:
    """Return a digest of the weights, configuration, and tokenizer files of the model."""
    wanted = {".safetensors", ".json", ".txt", ".model"}
    files = [file for file in files_under(folder) if file.suffix in wanted]
    return digest_of({str(file.relative_to(folder)): file_digest(file) for file in files})


class CrossEncoder:
    """A sequence classification model that estimates the probability that a passage is relevant to a query.

    One logit: its sigmoid. Two logits: the softmax of the second, since trainers number the classes "irrelevant,
    relevant".

    Raises:
        NightshiftError: the model has another number of logits, or weights are missing.
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
                f" ({', '.join(sorted(loading['missing_keys'])[:3])} …). It would score at random. Set"
                " [mining.cross_encoder] model to a sequence classification model."
            )
        if model.config.num_labels not in (1, 2):
            raise NightshiftError(
                f"cross-encoder {folder}: {model.config.num_labels} classes; supported are 1 (a score) and 2"
                " (irrelevant, relevant). Set [mining.cross_encoder] model to another model."
            )
        self.model: Any = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens = min(tokens, getattr(model.config, "max_position_embeddings", tokens))

    def probabilities(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Return the probability that passages[i] answers queries[i], float32 (n,), rounded to four digits.

        Pairs longer than `tokens` are truncated.
        """
        probabilities: np.ndarray = np.round(expit(self._log_odds(queries, passages)), DIGITS).astype(np.float32)
        return probabilities

    def log_odds(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """Return the log-odds that passages[i] answers queries[i], float32 (n,), rounded to four digits.

        They are the only logit, or the difference of both. Unlike probabilities, they distinguish pairs that are
        almost certain: the margins of Hofstätter et al. (2020) are differences of such scores.
        """
        log_odds: np.ndarray = np.round(self._log_odds(queries, passages), DIGITS).astype(np.float32)
        return log_odds

    def _log_odds(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        import torch

        result = np.zeros(len(queries), np.float64)
        if not queries:
            return result
        encoded = self.tokenizer(list(queries), list(passages), truncation=True, max_length=self.tokens)
        batches = padded_batches([len(ids) for ids in encoded["input_ids"]], TOKEN_BUDGET)
        with torch.inference_mode():
            for rows in batches:
                padded = self.tokenizer.pad({name: [encoded[name][row] for row in rows] for name in encoded})
                tensors = {name: torch.tensor(values).to(self.model.device) for name, values in padded.items()}
                logits = self.model(**tensors).logits.double()
                relevant = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
                result[rows] = relevant.cpu().numpy()
        return result


def pair_scorer(
    snapshot: Snapshot, queries: pa.Table, score_texts: Callable[[list[str], list[str]], np.ndarray]
) -> ScorePairs:
    """Return a function that scores rows of queries (query_id, text) and of passages by their texts.

    score_texts: query texts and passage texts → scores float32 (n,), such as `CrossEncoder.log_odds`.
    """

    def score(query_rows: np.ndarray, passage_rows: np.ndarray) -> np.ndarray:
        texts = texts_of(snapshot, passage_rows)
        query_texts = queries["text"].take(pa.array(query_rows)).to_pylist()
        return score_texts(query_texts, [texts[row] for row in passage_rows.tolist()])

    return score
