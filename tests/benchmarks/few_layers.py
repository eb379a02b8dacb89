"""The default base model with few layers, for benchmarks of everything else."""

from __future__ import annotations

from pathlib import Path


def save_base(folder: Path, layers: int, factor: float = 1) -> None:
    """Save the first layers of the default base model, in fp32, as a base model.

    Args:
        folder: the folder to write to.
        layers: number of layers to keep; 0 keeps the embeddings only.
        factor: for the word embeddings; each value gives another encoder.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tasks.core.base.settings import Settings
    from tasks.core.encoder.base_model import find_base

    base = find_base(Settings().encoder.model)
    model = AutoModel.from_pretrained(base, add_pooling_layer=False, dtype=torch.float32)
    model.encoder.layer = model.encoder.layer[:layers]
    model.config.num_hidden_layers = layers
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(factor)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
