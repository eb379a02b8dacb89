"""One side of a dual encoder: texts → token ids → transformer → pooled, normalised vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from tasks.core.errors import NightshiftError

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()  # what is missing from a checkpoint is checked in _load

TokenIds = list[list[int]]


class Tower(nn.Module):
    """A transformer with a pooling over its last hidden states.

    Args:
        folder: a Hugging Face model folder (config, tokenizer, safetensors).
        pooling: "mean" over the real tokens, or the state of the first ("cls").
        normalize: scale every vector to length 1.
        prompt: text put before every input.
        max_tokens: limit on the tokens of prompt + text, special tokens included.
    """

    def __init__(self, folder: Path, *, pooling: str, normalize: bool, prompt: str, max_tokens: int) -> None:
        super().__init__()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.transformer = _load(folder)
        self.pooling, self.normalize, self.prompt = pooling, normalize, prompt
        longest = getattr(self.transformer.config, "max_position_embeddings", max_tokens)
        self.max_tokens = min(max_tokens, longest)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self.transformer.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def set_dropout(self, share: float) -> None:
        """Drop this share of activations and attention weights in training, whatever the model's own config says."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(getattr(module, "attention_dropout", None), float):
                setattr(module, "attention_dropout", share)  # noqa: B010  (a plain float among a module's tensors)

    def tokenize(self, texts: Sequence[str]) -> TokenIds:
        """Token ids of prompt + text, cut at `max_tokens`; one list a text, no padding."""
        if not texts:
            return []
        prompted = [self.prompt + text for text in texts]
        ids: TokenIds = self.tokenizer(
            prompted, truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )["input_ids"]
        return ids

    def forward(self, ids: TokenIds, token_budget: int) -> Tensor:
        """Vectors float32 (n, dimension) in the order of `ids`.

        Texts of like length go through together, at most `token_budget` padded tokens at a time, so little
        is spent on padding and activations stay in cache.
        """
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        parts = [self._pool(ids, rows) for rows in _micro_batches(order, ids, token_budget)]
        vectors = torch.cat(parts)
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return vectors[back.to(vectors.device)]

    def encode(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """`forward` without gradients, as a float32 array (n, dimension) in main memory."""
        if not ids:
            return np.zeros((0, self.dimension), np.float32)
        self.eval()
        with torch.inference_mode():
            return self.forward(ids, token_budget).cpu().numpy()

    def _pool(self, ids: TokenIds, rows: Sequence[int]) -> Tensor:
        lengths = torch.tensor([len(ids[row]) for row in rows])
        width = int(lengths.max())
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([ids[row] + [pad] * (width - len(ids[row])) for row in rows]).to(self.device)
        # A batch without padding needs no mask, and attention without a mask is faster.
        mask = None if int(lengths.min()) == width else torch.arange(width)[None, :] < lengths[:, None]
        mask = None if mask is None else mask.to(self.device)
        states = self.transformer(
            input_ids=tokens, attention_mask=None if mask is None else mask.long()
        ).last_hidden_state.float()
        if self.pooling == "cls":
            vectors = states[:, 0]
        elif mask is None:
            vectors = states.mean(dim=1)
        else:
            vectors = (states * mask[:, :, None]).sum(dim=1) / lengths[:, None].to(states)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def _load(folder: Path) -> PreTrainedModel:
    """The transformer in float32. What vectors do not need (a pooler) may be missing, nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a missing pooler is drawn at random: the same each time, or the fingerprint would differ
        model, loading = AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise NightshiftError(
            f"model {folder}: {len(missing)} weights are not in its safetensors ({', '.join(missing[:3])} …). "
            "It would encode at random: give [encoder] model a complete folder."
        )
    transformer: PreTrainedModel = model
    return transformer


def _micro_batches(order: Sequence[int], ids: TokenIds, token_budget: int) -> Iterator[list[int]]:
    """Cut `order` (rows by rising length) where rows × longest would pass the budget."""
    rows: list[int] = []
    for row in order:
        if rows and (len(rows) + 1) * len(ids[row]) > token_budget:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
