"""What a release is made of in Milvus, and what any Milvus must offer to hold releases.

One `Publisher`, two pointers: `EmbeddedMilvus` replaces a file, `ServerMilvus` alters an alias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.base.errors import Mismatch

PREFIX = "nightshift."  # of our keys among a collection's properties


class Identity(BaseModel):
    """Who a collection is: written into its properties when it is created, and never altered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    digest: str  # of the release's manifest: the same parts give the same one
    collection: str
    fingerprint: str
    dimension: int
    metric: str
    index: str
    index_params: str  # JSON
    rows: int
    encoder: str
    embeddings: str
    snapshot: str

    def properties(self) -> dict[str, str]:
        """As collection properties: strings only."""
        return {PREFIX + name: str(value) for name, value in self.model_dump().items()}

    @classmethod
    def read(cls, collection: str, properties: Mapping[str, Any]) -> Identity:
        """From the properties of `collection`; raises Mismatch when they are not those of a release."""
        ours = {name.removeprefix(PREFIX): value for name, value in properties.items() if name.startswith(PREFIX)}
        try:
            identity = cls(**ours)
        except ValidationError as error:
            missing = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise Mismatch(f"collection {collection}: its properties do not name a release ({missing})") from error
        if identity.collection != collection:
            raise Mismatch(f"collection {collection}: its properties are those of {identity.collection}")
        return identity


class Pointer(BaseModel):
    """The one mutable thing: which release serves.

    `epoch` counts the moves of the pointer. An alias holds only a name: of it `epoch` is 0 and `why` empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    epoch: int = 0
    collection: str
    fingerprint: str
    why: str = ""  # it moved: publish, rollback, mended or rebuilt


class Found(NamedTuple):
    """A passage that a search found; `fields` holds what was asked for beside it."""

    row: int  # its row in the snapshot
    passage_id: str
    score: float
    fields: Mapping[str, Any]


class Reader(Protocol):
    """One collection, loaded, by its concrete name; safe for several threads until it is closed.

    Its methods raise NightshiftError when Milvus refuses, Unreachable when it does not answer in time.
    """

    identity: Identity

    def count(self) -> int:
        """Rows, counted with strong consistency."""

    def keys(self, first: int, last: int) -> list[tuple[int, str, str]]:
        """(row, passage_id, text_hash) of snapshot rows [first, last), by row."""

    def search(self, vectors: np.ndarray, k: int, fields: Sequence[str] = (), rule: str = "") -> list[list[Found]]:
        """The `k` best by inner product for each of `vectors` (float32, (n, dimension)), best first.

        Of the passages that keep `rule`, an expression that `Filters` made.
        """

    def fetch(self, rows: Sequence[int], fields: Sequence[str], rule: str = "") -> dict[int, Found]:
        """The passages of snapshot rows that keep `rule`, by row; their `score` is 0."""

    def check(self) -> None:
        """Verify again that what answers is whole.

        Raises Damaged when it is not: checksums of files differ or, on a server, sampled passages do not find
        themselves.
        """

    def close(self) -> None:
        """Give back what the reader holds."""


class Opener(Protocol):
    """What searching needs of a publisher."""

    def open(self, collection: str) -> Reader:
        """Open and load a finished collection without ever writing to it.

        Raises NightshiftError when it is not there or does not load, Damaged when its files are not those that were
        verified, Mismatch when it is not a release's.
        """

    def serving(self) -> Pointer | None:
        """The pointer; None before the first release.

        Raises Damaged when it cannot be read, Mismatch when it names what is no release, Unreachable when no server
        answers.
        """


class Publisher(Opener, Protocol):
    """Holds generations of the collection, and the pointer to the one that serves."""

    def build(self, identity: Identity, batches: Iterable[pa.RecordBatch]) -> None:
        """Make the collection `identity.collection` of `batches` (see `rows.paired`), flushed, indexed and closed.

        Raises NightshiftError when a collection of that name exists: names are never used twice.
        """

    def identity(self, collection: str) -> Identity:
        """Who a collection is; raises as `open` does."""

    def flip(self, pointer: Pointer) -> None:
        """Move the pointer, in one step."""

    def set_pointer_aside(self, reason: object) -> None:
        """Put a pointer that cannot be read out of the way; `flip` makes another."""

    def unload(self, collection: str) -> None:
        """Give back the memory that a finished collection takes; `open` loads it again."""

    def drop(self, collection: str) -> None:
        """Remove a collection. Raises NightshiftError when a pointer names it."""

    def collections(self) -> set[str]:
        """The names of all collections that are generations of this home, whole or half built."""

    def tidy(self) -> None:
        """Remove what killed processes left beside the collections."""


class VectorEncoder(Protocol):
    """What releasing and searching need of an encoder; vectors are float32 (n, dimension)."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    @property
    def fingerprint(self) -> str:
        """The name of the vector space, computed from the encoder's own files."""

    def encode_queries(self, texts: Sequence[str], /) -> np.ndarray:
        """Query vectors."""

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Passage vectors."""


class Loader(Protocol):
    """Reads the encoder in a folder, `load_encoder` for one."""

    def __call__(self, folder: Path, /) -> VectorEncoder:
        """The encoder in `folder`."""


def default_loader(folder: Path) -> VectorEncoder:
    """The dual encoder in `folder`; torch is imported only when one is needed."""
    from tasks.core.encoder.dual_encoder import load_encoder

    return load_encoder(folder)
