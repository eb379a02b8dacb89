"""The files of a generation of milvus-lite: clones of its directory, and its identity without loading it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from tasks.core.release.publisher import Identity

IMMUTABLE = {".parquet", ".idx", ".f32", ".i64"}  # never changed, so clones share them


def stored_identity(folder: Path, collection: str) -> Identity | None:
    """Read the identity of a generation from the file in which milvus-lite keeps a collection's properties.

    Returns None if there is no such file, because another version of milvus-lite keeps them elsewhere. Raises Mismatch
    when the properties do not name a release.
    """
    try:
        properties = json.loads((folder / "collections" / collection / "schema.json").read_bytes())["properties"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Identity.read(collection, properties)


def clone_generation(source: Path, target: Path, without: Collection[str] = ()) -> None:
    """Copy a directory, with hard links for its large immutable files. Locks are copied: a lock follows its inode.

    Leaves out files with a name in `without`.
    """
    for folder, _, names in os.walk(source, onerror=_raise):
        copy = target / Path(folder).relative_to(source)
        copy.mkdir(parents=True)
        for name in set(names).difference(without):
            file = Path(folder) / name
            if file.suffix in IMMUTABLE:
                _link(file, copy / name)
            else:
                shutil.copyfile(file, copy / name)


def _raise(error: OSError) -> None:
    raise error  # by default os.walk ignores a folder that is being dropped


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError:  # the file system has no hard links
        shutil.copyfile(file, target)
