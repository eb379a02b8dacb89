"""Finds and removes artifacts with forgotten rows in the object store of a home, also those that the home lacks."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import ArrowException

from tasks.core.base.checksums import MANIFEST
from tasks.core.base.object_store import ObjectStore
from tasks.core.base.receipts import Ingested, Receipt, Snapshot
from tasks.core.forget.contents import WITHOUT_TEXTS, Contents, kinds_of_artifacts
from tasks.core.ingest.snapshot_without import find_forgotten
from tasks.core.snapshot.reader import CANDIDATES, PASSAGES, QRELS, QUERIES
from tasks.core.text.tombstones import Tombstones

A_DAY = timedelta(days=1)


class StoredArtifacts:
    """The artifacts in a store. Other homes may share it, so only those with forgotten rows, or unknown ones, go."""

    def __init__(self, store: ObjectStore, contents: Contents, tombstones: Tombstones, scratch: Path) -> None:
        """Read the names of all objects. `scratch` is for snapshots that the home lacks. Raises Unreachable."""
        self._store, self._contents, self._tombstones, self._scratch = store, contents, tombstones, scratch
        self._objects: dict[str, list[str]] = defaultdict(list)  # by shelf/digest
        self._changed = store.objects()
        for name in self._changed:
            shelf, digest = [*name.split("/"), ""][:2]
            self._objects[f"{shelf}/{digest.removesuffix('.json')}"].append(name)
        self._clean: dict[str, bool] = {}  # by digest

    def find(self) -> list[str]:
        """Return the names, shelf/digest, of artifacts that may have a forgotten row, sorted. Raises Unreachable."""
        kinds = kinds_of_artifacts()
        return sorted(
            where
            for where in self._objects
            if (kind := kinds.get(where.partition("/")[0])) is not None
            and not issubclass(kind, WITHOUT_TEXTS)
            and not self._is_clean(where.partition("/")[2])
        )

    def remove(self, where: str) -> None:
        """Remove an artifact: its list first, then it counts as missing; its manifest last. Raises Unreachable."""
        listed, manifest = f"{where}.json", f"/{MANIFEST}"
        for name in sorted(self._objects.pop(where), key=lambda name: (name != listed, name.endswith(manifest), name)):
            self._store.remove(name)

    def remove_interrupted_uploads(self) -> int:
        """Remove uploads that no list names, a day after their last change; return their number. Raises Unreachable.

        A younger upload may be in progress in another home.
        """
        before, removed = datetime.now(UTC) - A_DAY, 0
        for where, names in self._objects.items():
            uploads: dict[str, list[str]] = defaultdict(list)
            for name in names:
                if name.startswith(f"{where}/"):
                    uploads["/".join(name.split("/")[:3])].append(name)
            if len(uploads) == 1 and f"{where}.json" in names:
                continue  # it is the upload that the list names
            listed = self._listed(where)
            for upload, files in uploads.items():
                if upload != listed and max(self._changed[name] for name in files) < before:
                    removed += 1
                    for name in files:
                        self._store.remove(name)
        return removed

    def _listed(self, where: str) -> str:
        """Return the upload that the list of an artifact names; empty without a readable list."""
        try:
            return str(json.loads(self._store.read(f"{where}.json") or b"{}").get("files_in", ""))
        except (ValueError, AttributeError):
            return ""

    def _is_clean(self, digest: str) -> bool:
        if digest not in self._clean:
            self._clean[digest] = False  # of a circle, which there is none
            self._clean[digest] = self._contents.is_clean(digest) or (
                not self._contents.has(digest) and self._decide_by_store(digest)
            )
        return self._clean[digest]

    def _decide_by_store(self, digest: str) -> bool:
        where, kind = next(
            (
                (f"{shelf}/{digest}", kind)
                for shelf, kind in kinds_of_artifacts().items()
                if f"{shelf}/{digest}" in self._objects
            ),
            ("", Receipt),
        )
        fields = self._manifest(where)
        if fields is None or issubclass(kind, Ingested):
            return False
        if issubclass(kind, WITHOUT_TEXTS):
            return True
        if issubclass(kind, Snapshot):
            return self._is_clean_snapshot(where)
        made_from = {*fields.get("parents", ()), fields.get("snapshot", ""), fields.get("embeddings", "")} - {""}
        return bool(made_from) and all(map(self._is_clean, map(str, made_from)))

    def _manifest(self, where: str) -> dict[str, list[str] | str] | None:
        name = next((name for name in self._objects.get(where, ()) if name.endswith(f"/{MANIFEST}")), "")
        content = self._store.read(name) if name else None
        try:
            fields = json.loads(content or b"")
        except ValueError:
            return None
        return fields if isinstance(fields, dict) else None

    def _is_clean_snapshot(self, where: str) -> bool:
        with TemporaryDirectory(dir=self._scratch) as folder:
            for table in (PASSAGES, QUERIES, QRELS, CANDIDATES):
                name = next((name for name in self._objects[where] if name.endswith(f"/{table}")), "")
                if not name and table == CANDIDATES:
                    continue
                if not name or self._store.get(name, Path(folder) / table)[0] < 0:
                    return False
            try:
                return not find_forgotten(Path(folder), self._tombstones)
            except ArrowException:  # a part of a file, from an upload to a folder that was interrupted
                return False
