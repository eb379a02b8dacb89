"""Write the same small collection in every form of a source."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.settings import DataSettings
from tasks.core.sources.rows import SCHEMAS
from tasks.core.sources.source import find_source

SPLITS = {"train": range(20), "dev": range(20, 25), "test": range(25, 30)}
PASSAGES = [
    {"_id": f"p{n}", "title": f"Title {n}", "text": f'Passage {n} reads "so" – {{[in brackets]}}, ünïcode.'}
    for n in range(30)
]
QUERIES = [{"_id": f"q{n}", "text": f"what is written in passage {n}"} for n in range(30)]
Passage = dict[str, str]


def pack(data: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(data)
    return pa.Codec("zstd").compress(data, asbytes=True) if ending == ".zst" else data


def put(root: Path, name: str, data: bytes | str, ending: str = "") -> Path:
    file = root / f"{name}{ending}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pack(data.encode() if isinstance(data, str) else data, ending))
    return file


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def beir(root: Path, ending: str = "", titled: bool = True) -> None:
    put(root, "corpus.jsonl", jsonl([passage if titled else {**passage, "title": ""} for passage in PASSAGES]), ending)
    put(root, "queries.jsonl", jsonl(QUERIES), ending)
    for split, numbers in SPLITS.items():
        lines = "".join(f"q{n}\tp{n}\t1\n" for n in numbers)
        put(root, f"qrels/{split}.tsv", "query-id\tcorpus-id\tscore\n" + lines, ending)


def msmarco(root: Path, ending: str = "", columns: int = 4) -> None:
    put(root, "collection.tsv", "".join(f"{passage['_id']}\t{passage['text']}\n" for passage in PASSAGES), ending)
    for split, numbers in SPLITS.items():
        put(root, f"queries.{split}.tsv", "".join(f"q{n}\t{QUERIES[n]['text']}\n" for n in numbers), ending)
        middle = "0\t" if columns == 4 else ""
        put(root, f"qrels.{split}.tsv", "".join(f"q{n}\t{middle}p{n}\t1\n" for n in numbers), ending)


def dpr(root: Path, ending: str = "", indent: int | None = 4) -> None:
    """DPR questions have no ids; `question_id` is used where present."""
    for split, numbers in SPLITS.items():
        records = [
            {
                "question_id": f"q{n}",
                "question": QUERIES[n]["text"],
                "answers": ["so"],
                "positive_ctxs": [_named(PASSAGES[n], "passage_id")],
                "negative_ctxs": [],
                "hard_negative_ctxs": [_named(PASSAGES[(n + 1) % 30], "passage_id")],
            }
            for n in numbers
        ]
        put(root, f"biencoder-small-{split}.json", json.dumps(records, indent=indent, ensure_ascii=False), ending)


def tevatron(root: Path, ending: str = "") -> None:
    for split, numbers in SPLITS.items():
        records = [
            {
                "query_id": f"q{n}",
                "query": QUERIES[n]["text"],
                "positive_passages": [_named(PASSAGES[n], "docid")],
                "negative_passages": [_named(PASSAGES[(n + k) % 30], "docid") for k in (1, 2)],
            }
            for n in numbers
        ]
        put(root, f"{split}.jsonl", jsonl(records), ending)


def sentence_transformers(root: Path, ending: str = "") -> None:
    """Texts only, without ids and titles."""
    for split, numbers in SPLITS.items():
        text = [passage["text"] for passage in PASSAGES]
        records = [
            {"anchor": QUERIES[n]["text"], "positive": text[n], "negative_1": text[(n + 1) % 30], "negative_2": text[0]}
            for n in numbers
        ]
        put(root, f"{split}-00000-of-00001.jsonl", jsonl(records), ending)


def tables() -> dict[str, pa.Table]:
    return {
        "corpus": pa.Table.from_pylist(PASSAGES),
        "queries": pa.Table.from_pylist(QUERIES),
        **{
            split: pa.table(
                {
                    "query-id": [f"q{n}" for n in numbers],
                    "corpus-id": [f"p{n}" for n in numbers],
                    "score": [1.0] * len(numbers),
                }
            )
            for split, numbers in SPLITS.items()
        },
    }


def parquet(root: Path) -> None:
    for name, table in tables().items():
        file = root / (f"qrels/{name}.parquet" if name in SPLITS else f"{name}.parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file, row_group_size=7)


def hub_folder(root: Path) -> None:
    """As a repository of the hub holds them: folders, shards, the id under another name, large strings."""
    for name, table in tables().items():
        folder = root / ("qrels" if name in SPLITS else name)
        folder.mkdir(parents=True, exist_ok=True)
        if name not in SPLITS:
            table = table.rename_columns(["id", *table.column_names[1:]])
            table = table.cast(pa.schema([(column, pa.large_string()) for column in table.column_names]))
            pq.write_table(table.slice(0, 12), folder / f"{name}-00000-of-00002.parquet")
            pq.write_table(table.slice(12), folder / f"{name}-00001-of-00002.parquet")
        else:
            split_name = "validation" if name == "dev" else name
            pq.write_table(table, folder / f"{split_name}-00000-of-00001.parquet")


def saved_to_disk(root: Path) -> None:
    """As `Dataset.save_to_disk` leaves them: Arrow streams, record batches, other files around."""
    for name, table in tables().items():
        folder = root / (f"qrels/{name}" if name in SPLITS else name)
        folder.mkdir(parents=True, exist_ok=True)
        name = str(folder / "data-00000-of-00001.arrow")
        with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=8)
        (folder / "dataset_info.json").write_text("{}")
        (folder / "cache-0123456789abcdef.arrow").write_bytes(b"left by a map")


def arrow_files(root: Path) -> None:
    """Arrow's file format, the split as a column, dictionaries, scores as text."""
    made = tables()
    qrels = pa.concat_tables(
        made[name].append_column("split", pa.array([name] * made[name].num_rows)) for name in SPLITS
    )
    qrels = qrels.set_column(2, "score", pa.array(["1"] * 30))
    qrels = qrels.set_column(0, "query-id", qrels.column(0).dictionary_encode())
    for name, table in (("passages", made["corpus"]), ("queries", made["queries"]), ("qrels", qrels)):
        root.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(root / f"{name}.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


FORMS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "beir": ("beir", beir),
    "beir.gz": ("beir", lambda root: beir(root, ".gz")),
    "beir.zst": ("beir", lambda root: beir(root, ".zst")),
    "dpr": ("dpr", dpr),
    "dpr in one line, gzipped": ("dpr", lambda root: dpr(root, ".gz", None)),
    "tevatron": ("tevatron", tevatron),
    "tevatron.zst": ("tevatron", lambda root: tevatron(root, ".zst")),
    "parquet": ("parquet", parquet),
    "hub folder": ("parquet", hub_folder),
    "saved to disk": ("parquet", saved_to_disk),
    "arrow files": ("parquet", arrow_files),
}


def rows(form: str, path: Path | str, scratch: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of a source by table, after checking the schema and the validity of all batches."""
    source = find_source(DataSettings(format=form, path=path))  # type: ignore[arg-type]
    scratch.mkdir(parents=True, exist_ok=True)
    read = source.open(scratch)
    rows_by_table: dict[str, list[dict[str, Any]]] = {}
    for table in ("passages", "queries", "qrels"):
        rows_by_table[table] = []
        for batch in read(table):
            assert batch.schema == SCHEMAS[table]
            batch.validate(full=True)
            rows_by_table[table] += batch.to_pylist()
        numbers = [row["row"] for row in rows_by_table[table]]
        assert numbers == sorted(set(numbers))
        assert all(
            (row["record"] is None) == (row["form"] is not None) and row["line"] > 0 for row in rows_by_table[table]
        )
    return rows_by_table


def values(rows_by_table: dict[str, list[dict[str, Any]]]) -> dict[str, set[tuple[Any, ...]]]:
    """Return the values of the rows, without their provenance."""
    return {table: {tuple(row.values())[8:] for row in table_rows} for table, table_rows in rows_by_table.items()}


def _named(passage: Passage, name: str) -> Passage:
    return {name: passage["_id"], "title": passage["title"], "text": passage["text"]}
