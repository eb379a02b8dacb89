"""Removes pieces of forgotten texts from the files of a home that are no artifacts: reports, logs, databases."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.atomic_files import exclusive, sync_folder
from tasks.core.base.checksums import DIGEST, write_record
from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Release
from tasks.core.forget.contents import kinds_of_artifacts
from tasks.core.forget.fragments import Fragments
from tasks.core.ingest.ingest import REFUSED
from tasks.core.synthesis.endpoint import FOLDER as GENERATED
from tasks.core.text.tombstones import FOLDER, Tombstones

_ELSEWHERE = {"milvus", "readers", "locks", FOLDER, REFUSED}  # removed as a whole by other steps, or without texts
_SQLITE = b"SQLite format 3\0"
_PROSE = {"data", "description", "message", "payload"}  # columns whose words are no part of a format
_ANSWERS = (GENERATED, "answers")  # folders of the answers of a language model, with their prompts
_WAIT = 30.0  # seconds for a lock of a database
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


def loose_files(home: Path) -> Iterator[Path]:
    """Yield the files of a home that may show texts and are no artifacts, sorted by path."""
    shelves = set(kinds_of_artifacts()) - {Release.shelf}
    for folder in sorted(home.iterdir()):
        if folder.name not in shelves | _ELSEWHERE:
            files = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
            yield from (file for file in files if file.is_file() and not file.is_symlink() and file.stat().st_size)


def scrub_file(file: Path, fragments: Fragments, tombstones: Tombstones, *, apply: bool) -> int:
    """Count the pieces of forgotten texts in a file; with `apply`, remove them.

    Lines of JSON are removed as a whole. Text is replaced by a placeholder; in logs, which other processes append to,
    by as many letters in place. Files in a binary format are deleted.

    Raises:
        NightshiftError: a database stays locked by another process.
    """
    with suppress(FileNotFoundError):  # another process has just replaced or removed the file
        return _handler(file)(file, fragments, tombstones, apply)
    return 0


_Handler = Callable[[Path, Fragments, Tombstones, bool], int]


def _handler(file: Path) -> _Handler:
    with file.open("rb") as stream:
        start = stream.read(4096)
    if start.startswith(_SQLITE):
        return _scrub_database
    if file.name.endswith(("-wal", "-shm", "-journal")) and file.with_name(file.name.rpartition("-")[0]).exists():
        return lambda *_: 0  # of a database, which is scrubbed with it
    if file.parts[-4:-2] == _ANSWERS:
        return _delete_answer
    if file.suffix in _HANDLERS:
        return _HANDLERS[file.suffix]
    return _delete_binary if b"\0" in start else _scrub_text


def _scrub_lines(file: Path, fragments: Fragments, tombstones: Tombstones, apply: bool) -> int:
    """Remove whole lines: those with a piece of a text, and those with a forgotten id in a field of the line.

    Holds the lock of the log, `<name>.lock`, with which the writers of votes and judgments take turns.
    """
    lock = file.with_suffix(".lock")
    with exclusive(lock) if apply and lock.exists() else nullcontext():
        return _scrub_locked_lines(file, fragments, tombstones, apply)


def _scrub_locked_lines(file: Path, fragments: Fragments, tombstones: Tombstones, apply: bool) -> int:
    kept, removed = [], 0
    for line in file.read_bytes().splitlines(keepends=True):
        text = line.decode(**ENCODING)
        if fragments.find(text, single_words=True) or _names_forgotten(text, tombstones):
            removed += 1
        else:
            kept.append(line)
    if removed and apply:
        _replace(file, b"".join(kept))
    return removed


def _names_forgotten(line: str, tombstones: Tombstones) -> bool:
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    values = [value for value in fields.values() if isinstance(value, str)] if isinstance(fields, dict) else []
    return any(
        tombstones.match_id("passages", value) or tombstones.match_id("queries", value) or tombstones.match_text(value)
        for value in values
    )


def _scrub_json(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    content, pieces = fragments.replace(file.read_bytes().decode(**ENCODING))
    if pieces and apply:
        fields: Any = None
        with suppress(ValueError):
            fields = json.loads(content)
        if isinstance(fields, dict) and fields.pop(DIGEST, None):
            write_record(file, fields)
        else:
            _replace(file, content.encode(**ENCODING))
    return pieces


def _scrub_text(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    content, pieces = fragments.replace(file.read_bytes().decode(**ENCODING), single_words=True)
    if pieces and apply:
        _replace(file, content.encode(**ENCODING))
    return pieces


def _scrub_log(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    """Overwrite the pieces in place: a process that has the file open continues to append to it."""
    pieces, offset = 0, 0
    with file.open("r+b" if apply else "rb") as stream:
        for line in stream.read().splitlines(keepends=True):
            text = line.decode(**ENCODING)
            for start, end in fragments.find(text, single_words=True):
                pieces += 1
                if apply:
                    first, last = (len(text[:place].encode(**ENCODING)) for place in (start, end))
                    stream.seek(offset + first)
                    stream.write(b"x" * (last - first))
            offset += len(line)
        if apply:
            stream.flush()
            os.fsync(stream.fileno())
    return pieces


def _scrub_table(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    table, pieces = pq.read_table(file), 0
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            values = [
                (value, 0) if value is None else fragments.replace(value, single_words=True)
                for value in table[field.name].to_pylist()
            ]
            pieces += sum(count for _, count in values)
            table = table.set_column(place, field, pa.array([value for value, _ in values], pa.string()))
    if pieces and apply:
        aside = _aside(file)
        pq.write_table(table, aside, compression="zstd", write_page_checksum=True)
        _move(aside, file)
    return pieces


def _scrub_database(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    """Replace pieces in all text columns, and rewrite the file, since SQLite keeps deleted rows until then."""
    raw = b"\n".join(part.read_bytes() for part in (file, Path(f"{file}-wal")) if part.exists())
    if not fragments.find(raw.decode(**ENCODING), single_words=True):
        return 0
    pieces = 0
    address = f"{file.absolute().as_uri()}?mode={'rw' if apply else 'ro'}"  # ro: closing it leaves the files unchanged
    try:
        with closing(sqlite3.connect(address, timeout=_WAIT, isolation_level=None, uri=True)) as database:
            database.text_factory = lambda content: content.decode(**ENCODING)
            database.execute("PRAGMA secure_delete = ON")
            database.execute("BEGIN IMMEDIATE" if apply else "BEGIN")
            for table, column in _text_columns(database):
                select = f"SELECT rowid, {column} FROM {table} WHERE typeof({column}) = 'text'"  # noqa: S608 (our names)
                update = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"  # noqa: S608
                for row, value in database.execute(select):
                    content, count = fragments.replace(value, single_words=column.strip('"') in _PROSE)
                    pieces += count
                    if count and apply:
                        database.execute(update, (content, row))
            database.execute("COMMIT")
            if apply:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                database.execute("VACUUM")
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        raise NightshiftError(f"{file}: {error}. Stop the Prefect server (`nightshift down`), then continue") from error
    return pieces


def _text_columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return (table, column) of all columns of ordinary tables, quoted."""
    tables = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    ordinary = [
        name for name, sql in tables if "WITHOUT ROWID" not in (sql or "").upper() and "VIRTUAL" not in (sql or "")
    ]
    return [
        (f'"{name}"', f'"{column[1]}"')
        for name in ordinary
        for column in database.execute(f'PRAGMA table_info("{name}")').fetchall()
    ]


def _delete_compressed(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError):
        content = b""
    return _delete_if_found(file, content, fragments, apply)


def _delete_binary(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    return _delete_if_found(file, file.read_bytes(), fragments, apply)


def _delete_answer(file: Path, fragments: Fragments, _: Tombstones, apply: bool) -> int:
    """Delete a stored answer of a language model if its prompt, or a query that it wrote, has a piece of a text."""
    pieces = len(fragments.find(file.read_bytes().decode(**ENCODING)))
    if pieces and apply:
        file.unlink()
    return pieces


def _delete_if_found(file: Path, content: bytes, fragments: Fragments, apply: bool) -> int:
    pieces = len(fragments.find(content.decode(**ENCODING), single_words=True))
    if pieces and apply:
        file.unlink()
    return pieces


_HANDLERS: dict[str, _Handler] = {
    ".jsonl": _scrub_lines,
    ".json": _scrub_json,
    ".log": _scrub_log,
    ".parquet": _scrub_table,
    ".gz": _delete_compressed,
}


def _aside(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.partial")


def _replace(file: Path, content: bytes) -> None:
    aside = _aside(file)
    aside.write_bytes(content)
    _move(aside, file)


def _move(aside: Path, file: Path) -> None:
    """Move a new version into place, with the permissions of the file."""
    shutil.copymode(file, aside)
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    aside.replace(file)
    sync_folder(file.parent)
