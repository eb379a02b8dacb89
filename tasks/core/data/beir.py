"""Reads a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, each plain or gzipped.

One bad line never stops a night: it becomes a row with a fault and its raw text, for the quarantine. Only a
missing or unreadable file stops.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from tasks.core.data.rows import Fault, Values, batches
from tasks.core.errors import BadInput

_HEADER = ["query-id", "corpus-id", "score"]
_BOM = b"\xef\xbb\xbf"
_INT32 = range(-(2**31), 2**31)


@dataclass(frozen=True)
class BeirFolder:
    """The files of one collection."""

    root: Path
    corpus: Path
    queries: Path
    qrels: dict[str, Path]  # by split

    def files(self) -> list[Path]:
        """All of them, in a fixed order."""
        return [self.corpus, self.queries, *self.qrels.values()]


def locate(root: Path) -> BeirFolder:
    """Find the files of the collection in `root`.

    Raises BadInput when the folder or a file is missing, or when one is there both plain and gzipped.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder. Set [data] path to the folder that holds corpus.jsonl.")
    qrels: dict[str, Path] = {}
    for file in sorted((root / "qrels").glob("*.tsv*")):
        split = file.name.removesuffix(".gz").removesuffix(".tsv")
        if file.name not in (f"{split}.tsv", f"{split}.tsv.gz"):
            continue
        if split in qrels:
            raise BadInput(f"{qrels[split]} and {file}: the same split twice. Keep one of them.")
        qrels[split] = file
    if not qrels:
        raise BadInput(f"{root / 'qrels'}: holds no .tsv file. Put the judgements there, one file a split: train.tsv …")
    return BeirFolder(root, _plain_or_gzip(root, "corpus.jsonl"), _plain_or_gzip(root, "queries.jsonl"), qrels)


def read(folder: BeirFolder, table: str) -> Iterator[pa.RecordBatch]:
    """Stream one table (passages, queries or qrels) in the schema `rows.SCHEMAS[table]`.

    `file` is relative to the folder; `line` counts from 1 as an editor does, header and blank lines included.
    Blank lines are no rows. Raises BadInput for a file that cannot be read, or a qrels header of other columns.
    """
    if table == "passages":
        yield from batches(table, _lines(folder, folder.corpus), _passage)
    elif table == "queries":
        yield from batches(table, _lines(folder, folder.queries), _query)
    else:
        first = 0
        for split, file in folder.qrels.items():
            for batch in batches(table, _judgements(folder, file), partial(_qrel, split), first):
                first += batch.num_rows
                yield batch


def _plain_or_gzip(root: Path, name: str) -> Path:
    found = [path for path in (root / name, root / f"{name}.gz") if path.is_file()]
    if not found:
        raise BadInput(f"{root / name}: not found (nor {name}.gz). A BEIR folder needs it.")
    if len(found) > 1:
        raise BadInput(f"{found[0]} and {found[1]}: which of them? Keep one.")
    return found[0]


def _lines(folder: BeirFolder, file: Path) -> Iterator[tuple[str, int, bytes]]:
    """(name, 1-based line number, bytes without line end) of every line that is not blank."""
    name = file.relative_to(folder.root).as_posix()
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for number, line in enumerate(cast(BinaryIO, stream), start=1):
                content = (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
                if content.strip():
                    yield name, number, content
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(
            f"{file}: cannot be read to its end ({error}). Copy it again, or check its permissions."
        ) from error


def _judgements(folder: BeirFolder, file: Path) -> Iterator[tuple[str, int, bytes]]:
    """The lines of a qrels file below its header."""
    for position, (name, number, content) in enumerate(_lines(folder, file)):
        if position == 0:
            header = content.decode("utf-8", "replace").split("\t")
            if header == _HEADER:
                continue
            if set(header) & set(_HEADER):
                raise BadInput(f"{file}: header is {header}, expected {_HEADER}. Reorder or rename the columns.")
        yield name, number, content


def _passage(content: bytes) -> Values | Fault:
    found = _object(content, required=("_id", "text"), optional=("title",))
    if isinstance(found, Fault):
        return found
    return {"passage_id": found["_id"], "title": found["title"] or "", "text": found["text"]}


def _query(content: bytes) -> Values | Fault:
    found = _object(content, required=("_id", "text"))
    return found if isinstance(found, Fault) else {"query_id": found["_id"], "text": found["text"]}


def _object(content: bytes, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, str | None] | Fault:
    """The wanted fields of a JSON object; null is let through, for the contract says whether it may be."""
    try:
        value = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Fault("malformed_json", f"not JSON: {error}")
    if not isinstance(value, dict):
        return Fault("wrong_type", f"a JSON {type(value).__name__} where an object is expected")
    key = value.get("_id") if isinstance(value.get("_id"), str) else None
    if missing := [name for name in required if name not in value]:
        return Fault("missing_field", f"has no field {', '.join(missing)}", key)
    fields = {name: value.get(name) for name in (*required, *optional)}
    for name, one in fields.items():
        if one is not None and not isinstance(one, str):
            return Fault("wrong_type", f"field {name} is a {type(one).__name__}, expected a string", key)
    if b"\\ud" in content.lower() and any(_broken(one) for one in fields.values()):
        return Fault("invalid_utf8", "an escape \\ud800 to \\udfff without its pair is no character")
    return fields


def _broken(text: str | None) -> bool:
    return text is not None and any("\ud800" <= character <= "\udfff" for character in text)


def _qrel(split: str, content: bytes) -> Values | Fault:
    try:
        fields = content.decode("utf-8").split("\t")
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8")
    if len(fields) != len(_HEADER):
        return Fault("malformed_row", f"{len(fields)} columns where query-id, corpus-id and score are expected")
    query, passage, score = fields
    digits = score.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 11 and int(score) in _INT32):
        return Fault("bad_score", f"score {score[:40]!r} is not a whole number", f"{query} {passage}")
    return {"query_id": query, "passage_id": passage, "split": split, "relevance": int(score)}
