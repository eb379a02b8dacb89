"""The dual encoder on disk and in memory, and the fingerprint that names its vector space."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from tasks.core.errors import Mismatch
from tasks.core.files import MANIFEST, digest_of, file_digest, write_json
from tasks.core.settings import EncoderSettings
from tasks.core.training.tower import Tower

SPEC = "encoder.json"
Precision = Literal["fp32", "bf16"]


class EncoderSpec(BaseModel):
    """Everything beside weights and tokenizer that decides which vector a text gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared: bool
    pooling: Literal["mean", "cls"]
    normalize: bool
    query_prompt: str
    passage_prompt: str
    query_tokens: int
    passage_tokens: int
    precision: Precision  # the numeric path: weights and activations of the transformer

    @classmethod
    def of(cls, settings: EncoderSettings, precision: Precision) -> EncoderSpec:
        """The spec that the settings ask for."""
        return cls(precision=precision, **settings.model_dump(include=set(cls.model_fields) - {"precision"}))


class DualEncoder:
    """A query encoder and a passage encoder, one object when their weights are shared.

    `folder` holds `encoder.json` and either `model/` (shared) or `query/` and `passage/`, each a model folder
    that sentence-transformers loads as it is.
    """

    def __init__(self, folder: Path, spec: EncoderSpec) -> None:
        self.spec = spec
        self.query = _tower(folder, "query", spec, spec.query_prompt, spec.query_tokens)
        self.passage = _tower(folder, "passage", spec, spec.passage_prompt, spec.passage_tokens)
        if spec.shared:
            self.passage.transformer = self.query.transformer
        self.fingerprint = fingerprint(folder)
        self.token_budget = 2048

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self.passage.dimension

    @property
    def towers(self) -> dict[str, Tower]:
        """The distinct towers by the folder each is saved in."""
        return {"model": self.passage} if self.spec.shared else {"query": self.query, "passage": self.passage}

    def for_inference(self) -> DualEncoder:
        """Move to the fastest device here and to the numeric path of the spec; returns itself."""
        dtype = torch.bfloat16 if self.spec.precision == "bf16" else torch.float32
        if torch.cuda.is_available():
            self.token_budget = 65536
        for tower in (self.query, self.passage):
            tower.to(device="cuda" if torch.cuda.is_available() else "cpu", dtype=dtype).eval()
        return self

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Query vectors, float32 (n, dimension)."""
        return self.query.encode(self.query.tokenize(texts), self.token_budget)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Passage vectors, float32 (n, dimension); a text is title and body joined (`full_text`)."""
        return self.passage.encode(self.passage.tokenize(texts), self.token_budget)


def _tower(folder: Path, side: str, spec: EncoderSpec, prompt: str, max_tokens: int) -> Tower:
    place = folder / ("model" if spec.shared else side)
    return Tower(place, pooling=spec.pooling, normalize=spec.normalize, prompt=prompt, max_tokens=max_tokens)


@lru_cache(maxsize=2)
def load_encoder(folder: Path) -> DualEncoder:
    """The encoder in `folder`, ready to encode; the last two stay in memory.

    Raises Mismatch when the files are not those that its manifest names.
    """
    encoder = DualEncoder(folder, read_spec(folder)).for_inference()
    manifest = folder / MANIFEST
    if manifest.exists():
        named = json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"]
        if named != encoder.fingerprint:
            raise Mismatch(
                f"encoder {folder}: its files have fingerprint {encoder.fingerprint}, its manifest says {named}. "
                "The folder was altered: remove it and run the night again."
            )
    return encoder


def read_spec(folder: Path) -> EncoderSpec:
    """The spec beside the weights."""
    return EncoderSpec(**json.loads((folder / SPEC).read_text(encoding="utf-8")))


def fingerprint(folder: Path) -> str:
    """Name the vector space of the encoder in `folder`.

    The digest of weights, tokenizer, architecture, pooling, prompts, token limits, normalisation, numeric path.
    """
    spec = read_spec(folder)
    files = [
        f"{tower}/{name}"
        for tower in (("model",) if spec.shared else ("query", "passage"))
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    return digest_of({"spec": spec.model_dump(), "files": {name: file_digest(folder / name) for name in files}})


def start_from(base: Path, spec: EncoderSpec, folder: Path) -> DualEncoder:
    """Lay a base model out in `folder` as a dual encoder of this `spec`, and return it."""
    for name in ("model",) if spec.shared else ("query", "passage"):
        limit = spec.query_tokens if name == "query" else spec.passage_tokens
        tower = Tower(base, pooling=spec.pooling, normalize=spec.normalize, prompt="", max_tokens=limit)
        save_tower(tower, folder / name, spec)
    write_json(folder / SPEC, spec.model_dump())
    return DualEncoder(folder, spec)


def save_encoder(encoder: DualEncoder, folder: Path) -> None:
    """Write weights (float32, safetensors), tokenizers and spec into `folder`, replacing what is there."""
    for name, tower in encoder.towers.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        save_tower(tower, folder / name, encoder.spec)
    write_json(folder / SPEC, encoder.spec.model_dump())


def save_tower(tower: Tower, folder: Path, spec: EncoderSpec) -> None:
    """One model folder, with the small files by which sentence-transformers knows pooling, prompts and limit."""
    folder.mkdir(parents=True)
    tower.transformer.save_pretrained(folder)
    tower.tokenizer.save_pretrained(folder)
    modules = ["Transformer", "Pooling"] + (["Normalize"] if spec.normalize else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": paths[i], "type": f"sentence_transformers.models.{module}"}
            for i, module in enumerate(modules)
        ],
    )
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": tower.max_tokens, "do_lower_case": False})
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": tower.dimension,
            "pooling_mode_mean_tokens": spec.pooling == "mean",
            "pooling_mode_cls_token": spec.pooling == "cls",
        },
    )
    prompts = {"query": spec.query_prompt, "document": spec.passage_prompt}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "dot"})
