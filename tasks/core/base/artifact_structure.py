"""Checks artifacts of earlier versions, which have no checksums: tables, arrays, JSON, and weights.

A file passes if it can be read completely and has the number of rows in the receipt. Lucene files contain a checksum.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tasks.core.base.checksums import CHECKSUMS, check_digest
from tasks.core.base.errors import Damaged
from tasks.core.base.receipts import Embeddings, Postings, Receipt, Shingles, Tokens

LUCENE, WRITE_LOCK = "lucene", "write.lock"  # folder of an index, and its only empty file
_FOOTER = 16  # bytes at the end of a Lucene file: magic, algorithm, CRC-32 of the preceding bytes
_MAGIC = b"\xc0\x28\x93\xe8\x00\x00\x00\x00"


def check_structure(receipt: Receipt) -> None:
    """Read every file of an artifact completely and compare its number of rows with the receipt.

    Raises:
        Damaged: a file is missing, cannot be read, or has a different number of rows.
    """
    folder = receipt.path
    if receipt.digest != folder.name:
        raise Damaged(f"{folder}: its manifest belongs to {receipt.digest}")
    for name in (*receipt.tables, *receipt.arrays):
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name}: missing")
    rows = {name: getattr(receipt, field) for name, field in receipt.tables.items()}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith(".") and file.name not in (CHECKSUMS, WRITE_LOCK):
            name = str(file.relative_to(folder))
            size = receipt.arrays[name] * receipt.rows if name in receipt.arrays else None
            _check(file, rows.get(name), size)
    if isinstance(receipt, Embeddings):
        _check_shards(receipt)
    if isinstance(receipt, Tokens):
        width = 2 if receipt.kind == "uint16" else 4
        _check_size(folder, "*.ends", 8 * receipt.rows)
        _check_size(folder, "*.ids", width * receipt.tokens)
    if isinstance(receipt, Postings):
        _check_size(folder, "documents.i32", 4 * receipt.postings)
        _check_size(folder, "frequencies.u16", 2 * receipt.postings)
    if isinstance(receipt, Shingles):
        sizes = memoryview((folder / "sizes.i64").read_bytes()).cast("q")
        _check_size(folder, "hashes.u32", 4 * sum(sizes))


def _check(file: Path, rows: int | None, size: int | None) -> None:
    try:
        actual = _reader_of(file)(file)
    except Exception as error:
        raise Damaged(f"{file}: cannot be read ({error})") from error
    if rows is not None and actual != rows:
        raise Damaged(f"{file}: {actual} rows, but the receipt has {rows}")
    if size is not None and file.stat().st_size != size:
        raise Damaged(f"{file}: {file.stat().st_size} bytes, but {size} were written")


def _reader_of(file: Path) -> Callable[[Path], object]:
    return _lucene if file.parent.name == LUCENE else _READERS.get(file.suffix, lambda file: None)


def _parquet(file: Path) -> int:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        return sum(batch.num_rows for batch in table.iter_batches())


def _json(file: Path) -> object:
    return json.loads(file.read_bytes())


def _npy(file: Path) -> object:
    import numpy as np

    return np.load(file, mmap_mode="r", allow_pickle=False)


def _npz(file: Path) -> object:
    import numpy as np

    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[name].size for name in arrays.files]


def _safetensors(file: Path) -> object:
    from safetensors import safe_open

    with safe_open(file, "numpy") as weights:
        return weights.keys()


def _lucene(file: Path) -> None:
    content = file.read_bytes()
    footer = content[-_FOOTER:]
    if footer[:8] != _MAGIC or int.from_bytes(footer[8:], "big") != zlib.crc32(content[:-8]):
        raise ValueError("its CRC-32 differs")


def _check_shards(embeddings: Embeddings) -> None:
    shards = sorted(embeddings.path.glob("shard-*-of-*.parquet"))
    if len(shards) != embeddings.shards:
        raise Damaged(f"{embeddings.path}: {len(shards)} shards, but the receipt has {embeddings.shards}")
    for shard, digest in zip(shards, embeddings.digests, strict=False):
        check_digest(shard, digest)


def _check_size(folder: Path, pattern: str, size: int) -> None:
    actual = sum(file.stat().st_size for file in folder.glob(pattern))
    if actual != size:
        raise Damaged(f"{folder / pattern}: {actual} bytes, but {size} were written")


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".parquet": _parquet,
    ".json": _json,
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
}
