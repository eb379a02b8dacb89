"""Models with a few thousand random weights, one per architecture."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

KINDS = ["bert", "roberta", "distilbert", "modernbert", "t5", "qwen3"]


def made(kind: str, tokenizer_of: Path, folder: Path, hidden: int = 32) -> Path:
    """Make a model folder of this architecture, with the tokenizer of another model."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(1)
    _model(kind, len(tokenizer), tokenizer.pad_token_id, hidden).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model(kind: str, words: int, pad: int, hidden: int) -> PreTrainedModel:
    common = {
        "vocab_size": words,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": pad,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if kind == "roberta":
        return RobertaModel(RobertaConfig(**common | {"type_vocab_size": 1}))
    if kind == "distilbert":
        sizes = {"dim": hidden, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
        return DistilBertModel(DistilBertConfig(vocab_size=words, max_position_embeddings=64, **sizes))
    if kind == "modernbert":
        return ModernBertModel(ModernBertConfig(**common))
    if kind == "t5":
        sizes = {"d_model": hidden, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
        return T5Model(T5Config(vocab_size=words, pad_token_id=pad, **sizes))
    if kind == "qwen3":
        return Qwen3Model(Qwen3Config(**common | {"num_key_value_heads": 1, "head_dim": 16}))
    return BertModel(BertConfig(**common))
