"""The dual encoder on disk and in memory, and the fingerprint that names its vector space."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.base.checksums import digest_once
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import MANIFEST, digest_of, write_json
from tasks.core.base.sections.embedding import OPENVINO, Precision
from tasks.core.base.settings import EncoderSettings, Pooling
from tasks.core.encoder.backends import graph
from tasks.core.encoder.backends.openvino import OpenVino
from tasks.core.encoder.damage import check_readable, damaged, read_sealed_json
from tasks.core.encoder.dense_module import PLAIN, decisive_dense_files, load_projection
from tasks.core.encoder.hardware import check_supported
from tasks.core.encoder.layout import write_router, write_tower
from tasks.core.encoder.model_parts import (
    longest_input,
    new_projection,
    read_tokenizer,
    read_transformer,
)
from tasks.core.encoder.model_settings import has_own_projection
from tasks.core.encoder.passage_map import MAP_FILES, MAPS
from tasks.core.encoder.served import open_graphs
from tasks.core.encoder.serving import ServingEncoder
from tasks.core.encoder.tower import Side, Tower

SPEC = "encoder.json"
SHARED = {"model": ""}  # tower name -> folder of its weights, relative to the encoder's folder
SIDES: tuple[Literal["query"], Literal["passage"]] = ("query", "passage")
SEPARATE = {"query": "query", "passage": "passage"}
DECISIVE = (
    "config.json",
    "*.safetensors",
    PLAIN,
    *MAP_FILES,
    "tokenizer*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    graph.XML,
    graph.BIN,
)
SHORT = 512  # tokens
NUMERICS = 2  # version of the numeric paths; raise it when a code change makes the same files give other vectors


class EncoderSpec(BaseModel):
    """Everything except weights and tokenizer that determines the vector of a text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared: bool
    pooling: Pooling
    normalize: bool
    dimension: int  # vector length after the projection; 0: no projection
    serve_dimension: int  # serve only the first N numbers of a vector; 0: all
    query_prompt: str
    passage_prompt: str
    query_tokens: int
    passage_tokens: int
    precision: Precision  # the numeric path: which backend computes vectors, and in which number format

    @classmethod
    def of(cls, settings: EncoderSettings, precision: Precision) -> EncoderSpec:
        """Build the spec from the settings."""
        return cls(precision=precision, **settings.model_dump(include=set(cls.model_fields) - {"precision"}))

    def side(self, name: Literal["query", "passage"]) -> Side:
        """Return the part of the spec that applies to queries or to passages."""
        prompt = self.query_prompt if name == "query" else self.passage_prompt
        limit = self.query_tokens if name == "query" else self.passage_tokens
        return Side(self.pooling, self.normalize, self.dimension, self.serve_dimension, prompt, limit)


class DualEncoder(ServingEncoder):
    """A query encoder and a passage encoder, which may share weights.

    `folder` holds `encoder.json` and the weights in the layout that `layout.py` writes. sentence-transformers can load
    the folder directly.
    """

    query: Tower
    passage: Tower

    def __init__(self, folder: Path, spec: EncoderSpec, name: str = "") -> None:
        self.spec, self.folder = spec, folder
        if spec.shared:
            self.passage = Tower.open(folder, spec.side("passage"))
            self.query = self.passage.twin(read_tokenizer(folder), spec.side("query"))
        else:
            self.passage = Tower.open(folder / SEPARATE["passage"], spec.side("passage"))
            self.query = Tower.open(folder / SEPARATE["query"], spec.side("query"))
        self.fingerprint = name or fingerprint(folder)

    @property
    def dimension(self) -> int:
        """Length of a served vector."""
        return self.passage.dimension

    @property
    def towers(self) -> dict[str, Tower]:
        """The distinct towers by name: one with shared weights, else two."""
        return {"model": self.passage} if self.spec.shared else {"query": self.query, "passage": self.passage}

    @property
    def places(self) -> dict[str, Path]:
        """The model folder of each tower, by tower name."""
        return {name: self.folder / place for name, place in places(self.spec).items()}

    def for_inference(self) -> DualEncoder:
        """Set up the numeric path of the spec and return the encoder itself. Torch uses the GPU if there is one.

        Raises Mismatch when this machine does not support the numeric path.
        """
        check_supported(self.spec.precision)
        if self.spec.precision in OPENVINO:
            self._to_openvino()
        else:
            self._to_torch("cuda" if torch.cuda.is_available() else "cpu")
        return self

    def _to_openvino(self) -> None:
        path, threads = self.spec.precision, torch.get_num_threads()
        for name, tower in self.towers.items():
            ov_model = graph.read(self.places[name], path) or graph.convert(tower)
            longest = longest_input(tower.transformer) or sys.maxsize
            tower.backend = OpenVino(ov_model, path, tower.tokenizer.pad_token_id or 0, longest, threads)
        self.query.backend = self.query.backend or self.passage.backend

    def _to_torch(self, device: str) -> None:
        bf16 = self.spec.precision == "bf16"
        if device == "cuda":
            self.token_budget = 65536
        for tower in (self.query, self.passage):
            tower.to(device).eval()
            tower.get_submodule("transformer").to(torch.bfloat16 if bf16 else torch.float32)
            if device == "cpu" and bf16 and tower.max_tokens <= SHORT:
                # Torch's fused attention is slow for bf16 on a CPU; without it, encoding is 12 % faster.
                tower.transformer.set_attn_implementation("eager")


@lru_cache(maxsize=2)
def load_encoder(folder: Path) -> ServingEncoder:
    """Load the encoder in `folder` for inference, from its graphs if it has any. The last two encoders stay in memory.

    Raises Damaged when its files do not match its manifest, and Mismatch when this machine does not support its
    numeric path.
    """
    name = check_encoder(folder)
    spec = read_spec(folder)
    check_supported(spec.precision)
    if spec.precision in OPENVINO:
        query, passage = ((folder / places(spec).get(side, ""), spec.side(side)) for side in SIDES)
        if (served := open_graphs(query, passage, spec.precision, name)) is not None:
            return served
    return DualEncoder(folder, spec, name).for_inference()


def check_encoder(folder: Path) -> str:
    """Compute the fingerprint of the encoder in `folder` from its files and compare it with its manifest.

    Raises Damaged when a file is missing, cannot be read, or has changed since the encoder was made.
    """
    check_readable(folder / place for place in places(read_spec(folder)).values())
    actual = fingerprint(folder)
    if (folder / MANIFEST).exists():
        expected = read_sealed_json(folder / MANIFEST).get("fingerprint")
        if expected != actual:
            raise damaged(
                f"encoder {folder}: its files have fingerprint {actual}, its manifest has {expected}: one of the "
                f"weights, config.json, tokenizer.json, or {SPEC} was damaged or altered"
            )
    return actual


def read_spec(folder: Path) -> EncoderSpec:
    """Read the spec, `encoder.json`, of the encoder in `folder`.

    Raises Damaged when the file is missing or cannot be read.
    """
    try:
        return EncoderSpec(**read_sealed_json(folder / SPEC))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise damaged(f"{folder / SPEC}: not as Nightshift wrote it ({fields})") from error


def places(spec: EncoderSpec) -> dict[str, str]:
    """Return tower name → model folder, relative to the folder of the encoder."""
    return SHARED if spec.shared else SEPARATE


def fingerprint(folder: Path) -> str:
    """Return the fingerprint, which identifies the vector space of the encoder in `folder`.

    It is a digest of weights, tokenizers, architectures, pooling, projection, dimensions, prompts, token limits,
    normalization, numeric path, and, for calibrated numeric paths, the graphs.
    """
    spec = read_spec(folder)
    files = {name: decisive_files(folder / place) for name, place in places(spec).items()}
    return digest_of({"spec": spec.model_dump(), "files": files, "numerics": NUMERICS})


def passage_fingerprint(folder: Path, *, with_map: bool = True) -> str:
    """Return the fingerprint of the passage side alone; without its map, that of the trunk.

    Encoders with the same passage fingerprint give every passage the same vector, even if their query sides differ.
    """
    spec = read_spec(folder)
    files = decisive_files(folder / places(spec).get("passage", ""))
    files = {name: digest for name, digest in files.items() if with_map or not name.startswith(MAPS)}
    side = {**spec.side("passage")._asdict(), "precision": spec.precision}
    return digest_of({"passage": side, "files": files, "numerics": NUMERICS})


def start_from(base: Path, spec: EncoderSpec, folder: Path, query_base: Path | None = None) -> DualEncoder:
    """Create a dual encoder with this `spec` from a base model, write it into `folder`, and return it.

    query_base: base model of the query side, for separate encoders; None: `base`.

    Raises NightshiftError when the two sides differ in vector length, or `serve_dimension` exceeds it.
    """
    passage = _from_base(base, spec.side("passage"))
    if spec.shared:
        query = passage.twin(read_tokenizer(base), spec.side("query"))
    else:
        query = _from_base(query_base or base, spec.side("query"))
    if query.width != passage.width:
        raise NightshiftError(
            f"[encoder] query_model {query_base} has vectors of {query.width} numbers, {base} of {passage.width}: "
            "set [encoder] dimension, and a trained projection maps both to that length"
        )
    _write(query, passage, spec, folder)
    return DualEncoder(folder, spec)


def save_encoder(encoder: DualEncoder, folder: Path) -> None:
    """Write weights (float32, safetensors), tokenizers, and spec into `folder`, replacing existing files."""
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
        projection = load_projection(base)
    elif side.dimension:
        projection = new_projection(transformer.config.hidden_size, side.dimension)
    return Tower(read_tokenizer(base), transformer, projection, side)


def decisive_files(place: Path) -> dict[str, str]:
    """Return file name → digest for the files of a model folder that determine vectors."""
    files = {file for pattern in DECISIVE for file in place.glob(pattern)} | {*decisive_dense_files(place)}
    return {str(file.relative_to(place)): digest_once(file) for file in sorted(files)}
