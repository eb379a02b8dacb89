"""The dual encoder on disk and in memory, and the fingerprint that names its vector space."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.base.checksums import digest_once
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import MANIFEST, digest_of, write_json
from tasks.core.base.sections.embedding import INT8, Precision
from tasks.core.base.settings import EncoderSettings, Pooling
from tasks.core.encoder.backends import graph
from tasks.core.encoder.backends.openvino import OpenVino
from tasks.core.encoder.damage import check_readable, damaged, read_sealed_json
from tasks.core.encoder.hardware import check_supported
from tasks.core.encoder.layout import write_router, write_tower
from tasks.core.encoder.model_parts import (
    PROJECTION,
    longest_input,
    new_projection,
    read_projection,
    read_tokenizer,
    read_transformer,
)
from tasks.core.encoder.model_settings import has_own_projection
from tasks.core.encoder.tower import Side, Tower

SPEC = "encoder.json"
SHARED = {"model": ""}  # name of a tower -> the folder of its weights
SEPARATE = {"query": "query", "passage": "passage"}
DECISIVE = (
    "config.json",
    "*.safetensors",
    PROJECTION,
    "tokenizer*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    graph.XML,
    graph.BIN,
)
SHORT = 512  # tokens
NUMERICS = 2  # of how the numeric paths compute: raise it when the same files would give other vectors


class EncoderSpec(BaseModel):
    """Everything beside weights and tokenizer that decides which vector a text gets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared: bool
    pooling: Pooling
    normalize: bool
    dimension: int  # numbers after the projection; 0: there is none
    serve_dimension: int  # the first so many numbers are served; 0: all
    query_prompt: str
    passage_prompt: str
    query_tokens: int
    passage_tokens: int
    precision: Precision  # the numeric path: which program computes vectors, and in which numbers

    @classmethod
    def of(cls, settings: EncoderSettings, precision: Precision) -> EncoderSpec:
        """The spec that the settings ask for."""
        return cls(precision=precision, **settings.model_dump(include=set(cls.model_fields) - {"precision"}))

    def side(self, name: Literal["query", "passage"]) -> Side:
        """What of it decides the vectors of one side."""
        prompt = self.query_prompt if name == "query" else self.passage_prompt
        limit = self.query_tokens if name == "query" else self.passage_tokens
        return Side(self.pooling, self.normalize, self.dimension, self.serve_dimension, prompt, limit)


class DualEncoder:
    """A query encoder and a passage encoder, one object when their weights are shared.

    `folder` holds `encoder.json` beside the weights, which lie there as `layout` describes: sentence-transformers
    loads it as it is.
    """

    def __init__(self, folder: Path, spec: EncoderSpec, name: str = "") -> None:
        self.spec, self.folder = spec, folder
        if spec.shared:
            self.passage = Tower.open(folder, spec.side("passage"))
            self.query = self.passage.twin(read_tokenizer(folder), spec.side("query"))
        else:
            self.passage = Tower.open(folder / SEPARATE["passage"], spec.side("passage"))
            self.query = Tower.open(folder / SEPARATE["query"], spec.side("query"))
        self.fingerprint = name or fingerprint(folder)
        self.token_budget = 2048

    @property
    def dimension(self) -> int:
        """Numbers in a vector that is served."""
        return self.passage.dimension

    @property
    def towers(self) -> dict[str, Tower]:
        """The distinct towers by name."""
        return {"model": self.passage} if self.spec.shared else {"query": self.query, "passage": self.passage}

    @property
    def places(self) -> dict[str, Path]:
        """The model folders of the towers, by the same names."""
        return {name: self.folder / place for name, place in places(self.spec).items()}

    def for_inference(self) -> DualEncoder:
        """Move to the numeric path of the spec, and with torch to the fastest device here; returns itself.

        Raises Mismatch when this machine lacks what the path needs.
        """
        check_supported(self.spec.precision)
        if self.spec.precision.startswith("openvino"):
            self._to_openvino()
        else:
            self._to_torch("cuda" if torch.cuda.is_available() else "cpu")
        return self

    def _to_openvino(self) -> None:
        path, threads = self.spec.precision, torch.get_num_threads()
        for name, tower in self.towers.items():
            made = graph.read(self.places[name]) if path in INT8 else graph.convert(tower)
            longest = longest_input(tower.transformer) or sys.maxsize
            tower.backend = OpenVino(made, path, tower.tokenizer.pad_token_id or 0, longest, threads)
        self.query.backend = self.query.backend or self.passage.backend

    def _to_torch(self, device: str) -> None:
        bf16 = self.spec.precision == "bf16"
        if device == "cuda":
            self.token_budget = 65536
        for tower in (self.query, self.passage):
            tower.to(device).eval()
            tower.get_submodule("transformer").to(torch.bfloat16 if bf16 else torch.float32)
            if device == "cpu" and bf16 and tower.max_tokens <= SHORT:
                # Torch's fused attention is slow there; without it encoding is an eighth faster.
                tower.transformer.set_attn_implementation("eager")

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Query vectors, float32 (n, dimension)."""
        return self.query.encode(self.query.tokenize(texts), self.token_budget)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Passage vectors, float32 (n, dimension); a text is title and body joined (`full_text`)."""
        return self.passage.encode(self.passage.tokenize(texts), self.token_budget)


@lru_cache(maxsize=2)
def load_encoder(folder: Path) -> DualEncoder:
    """The encoder in `folder`, ready to encode; the last two stay in memory.

    Raises Damaged when its files are not those that its manifest names, Mismatch when this machine lacks what its
    numeric path needs.
    """
    name = check_encoder(folder)
    return DualEncoder(folder, read_spec(folder), name).for_inference()


def check_encoder(folder: Path) -> str:
    """The fingerprint of the encoder in `folder`, computed from its files and compared with its manifest.

    Raises Damaged when a file is missing, cannot be read, or has other bytes than when the encoder was made.
    """
    check_readable(folder / place for place in places(read_spec(folder)).values())
    held = fingerprint(folder)
    if (folder / MANIFEST).exists():
        named = read_sealed_json(folder / MANIFEST).get("fingerprint")
        if named != held:
            raise damaged(
                f"encoder {folder}: its files have fingerprint {held}, its manifest says {named}: one of the weights, "
                f"config.json, tokenizer.json, or {SPEC} was damaged or altered"
            )
    return held


def read_spec(folder: Path) -> EncoderSpec:
    """The spec beside the weights.

    Raises Damaged when it is missing or cannot be read.
    """
    try:
        return EncoderSpec(**read_sealed_json(folder / SPEC))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise damaged(f"{folder / SPEC}: not what Nightshift wrote ({fields})") from error


def places(spec: EncoderSpec) -> dict[str, str]:
    """The model folders of an encoder, by the names of its towers, below its own folder."""
    return SHARED if spec.shared else SEPARATE


def fingerprint(folder: Path) -> str:
    """Name the vector space of the encoder in `folder`.

    The digest of weights, tokenizers, architectures, pooling, projection, dimensions, prompts, token limits,
    normalisation, numeric path and, where that is calibrated, its graphs.
    """
    spec = read_spec(folder)
    files = {name: decisive_files(folder / place) for name, place in places(spec).items()}
    return digest_of({"spec": spec.model_dump(), "files": files, "numerics": NUMERICS})


def passage_fingerprint(folder: Path) -> str:
    """Name what the encoder in `folder` makes of passages: as `fingerprint`, of the passage side alone.

    Two encoders with this in common give every passage the same vector, whatever their query sides are.
    """
    spec = read_spec(folder)
    place = folder if spec.shared else folder / SEPARATE["passage"]
    side = {**spec.side("passage")._asdict(), "precision": spec.precision}
    return digest_of({"passage": side, "files": decisive_files(place), "numerics": NUMERICS})


def start_from(base: Path, spec: EncoderSpec, folder: Path, query_base: Path | None = None) -> DualEncoder:
    """Lay a base model out in `folder` as a dual encoder of this `spec`, and return it.

    The query side of separate encoders starts from `query_base` when there is one.

    Raises NightshiftError when the two sides differ in width or the spec asks for more numbers than a vector has.
    """
    passage = _from_base(base, spec.side("passage"))
    if spec.shared:
        query = passage.twin(read_tokenizer(base), spec.side("query"))
    else:
        query = _from_base(query_base or base, spec.side("query"))
    if query.width != passage.width:
        raise NightshiftError(
            f"[encoder] query_model {query_base} has vectors of {query.width} numbers, {base} of {passage.width}: "
            "set [encoder] dimension, and a trained map brings both to so many"
        )
    _write(query, passage, spec, folder)
    return DualEncoder(folder, spec)


def save_encoder(encoder: DualEncoder, folder: Path) -> None:
    """Write weights (float32, safetensors), tokenizers and spec into `folder`, over what is there."""
    _write(encoder.query, encoder.passage, encoder.spec, folder)


def _write(query: Tower, passage: Tower, spec: EncoderSpec, folder: Path) -> None:
    tasks = {"query": query, "document": passage}
    if spec.shared:
        write_tower(passage, folder, tasks)
    else:
        write_tower(query, folder / SEPARATE["query"], {"query": query})
        write_tower(passage, folder / SEPARATE["passage"], {"document": passage})
        write_router(folder, {"query": SEPARATE["query"], "document": SEPARATE["passage"]}, tasks)
    write_json(folder / SPEC, spec.model_dump())


def _from_base(base: Path, side: Side) -> Tower:
    transformer = read_transformer(base)
    projection = None
    if has_own_projection(base, side.dimension):
        projection = read_projection(base)
    elif side.dimension:
        projection = new_projection(transformer.config.hidden_size, side.dimension)
    return Tower(read_tokenizer(base), transformer, projection, side)


def decisive_files(place: Path) -> dict[str, str]:
    """Digests of the files in a model folder that decide vectors."""
    files = {file for pattern in DECISIVE for file in place.glob(pattern)}
    return {str(file.relative_to(place)): digest_once(file) for file in sorted(files)}
