"""Interfaces of a vector store: `Publisher` builds and serves collections, `Reader` searches one of them.

There are two publishers. `EmbeddedMilvus` stores its pointer in a file, `ServerMilvus` in an alias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.core.base.errors import Mismatch
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.release.delta import Delta

PREFIX = "nightshift."  # of our keys in a collection's properties


class Identity(BaseModel):
    """The identity of a collection: written into its properties at creation and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    digest: str  # of the release: equal parts give an equal digest
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
    ranking: str = ""  # JSON of the `Ranking`; empty: dense, without a lexical index, as in earlier versions

    def properties(self) -> dict[str, str]:
        """Return the identity as collection properties: strings only."""
        return {PREFIX + name: str(value) for name, value in self.model_dump().items()}

    @classmethod
    def read(cls, collection: str, properties: Mapping[str, Any]) -> Identity:
        """Read an identity from properties. Raises Mismatch when they are not those of this collection's release."""
        ours = {name.removeprefix(PREFIX): value for name, value in properties.items() if name.startswith(PREFIX)}
        try:
            identity = cls(**ours)
        except ValidationError as error:
            missing = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
            raise Mismatch(f"collection {collection}: its properties do not name a release ({missing})") from error
        if identity.collection != collection:
            raise Mismatch(f"collection {collection}: its properties are those of {identity.collection}")
        return identity


def ranking_of(identity: Identity) -> Ranking:
    """Read how the release of a collection ranks.

    Raises:
        Mismatch: another version of Nightshift wrote it.
    """
    try:
        return Ranking.model_validate_json(identity.ranking) if identity.ranking else DENSE
    except ValidationError as error:
        raise Mismatch(
            f"collection {identity.collection}: its ranking was written by another version of Nightshift ({error})"
        ) from error


class Pointer(BaseModel):
    """The only mutable record: which release serves.

    `epoch` counts the moves of the pointer. An alias stores only a name, so there `epoch` is 0 and `why` is empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    epoch: int = 0
    collection: str
    fingerprint: str
    why: str = ""  # reason of the last move: publish, rollback, repaired, or rebuilt


class Found(NamedTuple):
    """A passage returned by a reader. `fields` contains the requested fields."""

    row: int  # its row in the snapshot
    passage_id: str
    score: float
    fields: Mapping[str, Any]


class Reader(Protocol):
    """A loaded collection, addressed by its concrete name. Thread-safe until it is closed.

    Methods raise NightshiftError when Milvus rejects a request, Unreachable when it does not answer in time.
    """

    identity: Identity
    keys_at_once: int  # most rows that one call of `keys` should request

    def count(self) -> int:
        """Count the rows, with strong consistency."""

    def keys(self, first: int, last: int) -> list[tuple[int, str, str]]:
        """Return (row, passage_id, text_hash) of snapshot rows [first, last), ordered by row."""

    def search(self, vectors: np.ndarray, k: int, fields: Sequence[str] = (), rule: str = "") -> list[list[Found]]:
        """Return the `k` passages with the highest inner product for each vector, best first.

        Args:
            vectors: query vectors, float32, shape (n, dimension).
            k: hits per query.
            fields: names of the fields to return with each hit.
            rule: filter expression from `Filters`; empty: all passages.
        """

    def fetch(self, keys: Sequence[str] | Sequence[int], fields: Sequence[str], rule: str = "") -> dict[int, Found]:
        """Return the passages with these keys that match the filter `rule`, keyed by row, with score 0.

        Args:
            keys: passage ids, or rows in the snapshot. For rows, milvus-lite scans the collection.
            fields: names of fields, or "vector".
            rule: filter expression, as in `search`.
        """

    def vectors(self, rows: Sequence[int], passage_ids: Sequence[str]) -> np.ndarray:
        """Return the vectors float32 (n, dimension) of n passages, given by their rows and their ids."""

    def check(self) -> None:
        """Verify again that the loaded collection is intact.

        Raises Damaged when file checksums differ or, on a server, when sampled passages do not find themselves.
        """

    def close(self) -> None:
        """Free all resources of the reader."""


class Opener(Protocol):
    """The part of a publisher that searching needs."""

    def open(self, collection: str) -> Reader:
        """Open and load a finished collection, read-only.

        Raises NightshiftError when it is missing or does not load, Damaged when its files differ from their checksums,
        Mismatch when it does not belong to a release.
        """

    def serving(self) -> Pointer | None:
        """Read the pointer; return None before the first release.

        Raises Damaged when it cannot be read, Mismatch when it names a collection that is no release, Unreachable when
        the server does not answer.
        """


class Publisher(Opener, Protocol):
    """Stores the collections of all generations, and the pointer to the serving one."""

    copies: bool  # whether `build` can use a delta

    def build(self, identity: Identity, batches: Iterable[pa.RecordBatch], delta: Delta | None = None) -> None:
        """Build, flush, index, and close the collection `identity.collection`.

        Args:
            identity: stored as the properties of the collection.
            batches: its rows, from `rows.rows_with_vectors`.
            delta: what it has in common with an earlier generation, which a publisher may copy.

        Raises NightshiftError when a collection of that name exists: names are never reused.
        """

    def identity(self, collection: str) -> Identity:
        """Read the identity of a collection; raises as `open` does."""

    def check_files(self, collection: str) -> Identity | None:
        """Verify the files of a finished collection without loading it, and return its identity.

        Returns None if only `open` can verify it: a server stores it, or it has no checksums. Raises as `open` does.
        """

    def move_pointer(self, pointer: Pointer) -> None:
        """Replace the pointer atomically."""

    def set_pointer_aside(self, reason: object) -> None:
        """Set an unreadable pointer aside, so that `move_pointer` can write a new one."""

    def unload(self, collection: str) -> None:
        """Free the memory of a finished collection; `open` loads it again."""

    def drop(self, collection: str) -> None:
        """Remove a collection. Raises NightshiftError when the pointer names it."""

    def collections(self) -> set[str]:
        """Return the names of all collections of this home, finished or not."""

    def tidy(self) -> None:
        """Remove files left by killed processes."""


class VectorEncoder(Protocol):
    """The part of an encoder that releasing and searching need."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """Digest that identifies the vector space, computed from the encoder's files."""

    def encode_queries(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode queries; returns float32 vectors, shape (n, dimension)."""

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode passages; returns float32 vectors, shape (n, dimension)."""


class Loader(Protocol):
    """A function that loads an encoder from a folder, for example `load_encoder`."""

    def __call__(self, folder: Path, /) -> VectorEncoder:
        """Load the encoder in `folder`."""


def default_loader(folder: Path) -> VectorEncoder:
    """Load the dual encoder in `folder`. Imports torch only when called."""
    from tasks.core.encoder.dual_encoder import load_encoder

    return load_encoder(folder)
