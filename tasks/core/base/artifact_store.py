"""Uploads finished artifacts to an object store, and fetches them instead of building them again.

    <store>/<shelf>/<digest>/<upload>/…  the files of one upload
    <store>/<shelf>/<digest>.json        written last: the complete upload, with size and SHA-256 of each file

Each upload has its own folder, so two hosts that built the same artifact never mix their files. A home that resumes an
interrupted upload continues in its folder. The list is a single object that is replaced as a whole; either host's list
is valid. Without a list, the artifact counts as missing. Only `nightshift forget` removes artifacts, and uploads that
were never finished, from a store: set expiry rules there.

The address of a home's store is in `<home>/store.json`, so every process that uses the home finds it without settings.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.core.base.atomic_files import files_under
from tasks.core.base.errors import Damaged
from tasks.core.base.object_store import ObjectStore

log = logging.getLogger("nightshift.store")

ADDRESS = "store.json"


def attach(home: Path, url: str, tries: int) -> None:
    """Record `url` as the store of `home`; an empty `url` detaches the store."""
    file = home / ADDRESS
    content = json.dumps({"url": url, "tries": tries})
    if not url:
        file.unlink(missing_ok=True)
    elif not file.exists() or file.read_bytes() != content.encode():
        home.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{ADDRESS}.{uuid.uuid4().hex}")
        aside.write_text(content, encoding="utf-8")
        aside.replace(file)


def keep(folder: Path) -> None:
    """Upload the finished artifact in `<home>/<shelf>/<digest>` to the home's store, if it has one and lacks it.

    Raises:
        Unreachable: the upload failed. The artifact stays finished, and the next night tries again.
    """
    store = _store_of(folder)
    done = _mark(folder)
    if store is None or (done.exists() and done.read_bytes() == store.url.encode()):
        return
    where = f"{folder.parent.name}/{folder.name}"
    if store.read(f"{where}.json") is None:
        attempt = f"{where}/{_upload_of(folder)}"
        files = {}
        for path in files_under(folder):
            name = path.relative_to(folder).as_posix()
            size, digest = store.put(path, f"{attempt}/{name}")
            files[name] = {"size": size, "sha256": digest}
        store.write(f"{where}.json", json.dumps({"files_in": attempt, "files": files}, indent=1).encode())
        log.info("Uploaded %s to the store: %d files", where, len(files))
    done.write_text(store.url, encoding="utf-8")
    _record(folder).unlink(missing_ok=True)


def fetch(folder: Path) -> bool:
    """Download the artifact `<home>/<shelf>/<digest>` from the home's store, as a whole or not at all.

    Returns:
        Whether the artifact is now in the home. False if the store lacks it, or if a file is missing or does not match
        its checksum; this is logged.
    """
    store = _store_of(folder)
    where = f"{folder.parent.name}/{folder.name}"
    listed = _listed(store, where) if store is not None else None
    if store is None or listed is None:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.fetched.{uuid.uuid4().hex}")
    try:
        for name, facts in listed["files"].items():
            if store.get(f"{listed['files_in']}/{name}", aside / name) != (facts["size"], facts["sha256"]):
                log.warning(
                    "%s/%s in the store is missing or does not match its checksum. The artifact is not used",
                    where,
                    name,
                )
                discard(folder)
                return False
        if not folder.exists():
            aside.rename(folder)
        _mark(folder).write_text(store.url, encoding="utf-8")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("Fetched %s from the store", where)
    return True


def discard(folder: Path) -> None:
    """Remove the damaged artifact `<home>/<shelf>/<digest>` from the home's store. A rebuilt one is uploaded again."""
    if (store := _store_of(folder)) is not None:
        store.remove(f"{folder.parent.name}/{folder.name}.json")
    forget(folder)


def forget(folder: Path) -> None:
    """Forget that the artifact `<home>/<shelf>/<digest>` was uploaded, so that a rebuilt one is uploaded again."""
    _mark(folder).unlink(missing_ok=True)
    _record(folder).unlink(missing_ok=True)


def _listed(store: ObjectStore, where: str) -> dict[str, Any] | None:
    """Read the list of an artifact's files; None if the store has none. An unreadable list is removed."""
    content = store.read(f"{where}.json")
    if content is None:
        return None
    try:
        listed: dict[str, Any] = json.loads(content)
        if all(facts.keys() == {"size", "sha256"} for facts in listed["files"].values()) and listed["files_in"]:
            return listed
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    log.warning("%s.json in the store is damaged and was removed. The artifact is not used", where)
    store.remove(f"{where}.json")
    return None


def _mark(folder: Path) -> Path:
    """Return the file that records the upload, so that later nights do not query the store."""
    return folder.with_name(f".{folder.name}.stored")


def _record(folder: Path) -> Path:
    """Return the file that records the name of an unfinished upload."""
    return folder.with_name(f".{folder.name}.uploading")


def _upload_of(folder: Path) -> str:
    """Return the name of the unfinished upload of an artifact, or record a new name."""
    record = _record(folder)
    name = record.read_text(encoding="utf-8") if record.exists() else ""
    if not name:
        name = uuid.uuid4().hex
        record.write_text(name, encoding="utf-8")
    return name


def _store_of(folder: Path) -> ObjectStore | None:
    return open_store(folder.parent.parent)


def open_store(home: Path) -> ObjectStore | None:
    """Open the store of a home; None if it has none. Raises Damaged if its address cannot be read."""
    file = home / ADDRESS
    try:
        return _opened(file.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Damaged(f"{file}: not the address of a store ({error}). The next night rewrites it.") from error


@lru_cache(maxsize=4)
def _opened(address: bytes) -> ObjectStore:
    return ObjectStore(**json.loads(address))
