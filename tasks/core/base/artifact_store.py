"""Finished artifacts in an object store, beside the home: kept after they are made, fetched before they would be.

    <store>/<shelf>/<digest>/<try>/…     the files of one upload
    <store>/<shelf>/<digest>.json        written last: which upload is whole, and size and SHA-256 of each of its files

Every upload has a folder of its own, so that two hosts which made the same artifact never mix their files; the list is
one object, replaced as a whole, and whichever of them came last is right. An artifact without a list is not there.
Nothing is removed from a store: what nights leave behind is for its own rules of expiry.

Which store a home has is written in the home (`<home>/store.json`), so whoever works on it finds it without settings.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.core.base.errors import Damaged
from tasks.core.base.object_store import ObjectStore

log = logging.getLogger("nightshift.store")

ADDRESS = "store.json"


def attach(home: Path, url: str, tries: int) -> None:
    """Let `home` have the store at `url` from now on; none when it is empty."""
    file = home / ADDRESS
    wanted = json.dumps({"url": url, "tries": tries})
    if not url:
        file.unlink(missing_ok=True)
    elif not file.exists() or file.read_bytes() != wanted.encode():
        home.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{ADDRESS}.{uuid.uuid4().hex}")
        aside.write_text(wanted, encoding="utf-8")
        aside.replace(file)


def keep(folder: Path) -> None:
    """Bring the finished artifact in `<home>/<shelf>/<digest>` to the home's store, unless that is done or has none.

    Raises Unreachable when the store does not take it; the artifact stays finished, and the next night tries again.
    """
    store = _store_of(folder)
    done = _mark(folder)
    if store is None or (done.exists() and done.read_bytes() == store.url.encode()):
        return
    where = f"{folder.parent.name}/{folder.name}"
    if store.read(f"{where}.json") is None:
        attempt = f"{where}/{uuid.uuid4().hex}"
        files = {}
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            name = path.relative_to(folder).as_posix()
            size, digest = store.put(path, f"{attempt}/{name}")
            files[name] = {"size": size, "sha256": digest}
        store.write(f"{where}.json", json.dumps({"files_in": attempt, "files": files}, indent=1).encode())
        log.info("%s kept in the store: %d files", where, len(files))
    done.write_text(store.url, encoding="utf-8")


def fetch(folder: Path) -> bool:
    """Bring the artifact `<home>/<shelf>/<digest>` from the home's store, whole or not at all; True when it is there.

    A file that is missing in the store, or is not the one that its list names, is told of, and makes False.
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
                log.warning("%s/%s in the store is not the file that was kept there: not used", where, name)
                discard(folder)
                return False
        if not folder.exists():
            aside.rename(folder)
        _mark(folder).write_text(store.url, encoding="utf-8")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("%s fetched from the store", where)
    return True


def discard(folder: Path) -> None:
    """Remove the artifact `<home>/<shelf>/<digest>` from the home's store: what was fetched was damaged.

    What is made in its place is uploaded.
    """
    if (store := _store_of(folder)) is not None:
        store.remove(f"{folder.parent.name}/{folder.name}.json")
    forget(folder)


def forget(folder: Path) -> None:
    """The artifact `<home>/<shelf>/<digest>` goes from the home: what is made in its place is to be kept anew."""
    _mark(folder).unlink(missing_ok=True)


def _listed(store: ObjectStore, where: str) -> dict[str, Any] | None:
    """The list of an artifact's files; None when the store has none. A list that cannot be read is removed."""
    content = store.read(f"{where}.json")
    if content is None:
        return None
    try:
        listed: dict[str, Any] = json.loads(content)
        if all(facts.keys() == {"size", "sha256"} for facts in listed["files"].values()) and listed["files_in"]:
            return listed
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    log.warning("%s.json in the store is damaged: not used", where)
    store.remove(f"{where}.json")
    return None


def _mark(folder: Path) -> Path:
    """The file that says in which store the artifact is, so that a second night does not ask."""
    return folder.with_name(f".{folder.name}.stored")


def _store_of(folder: Path) -> ObjectStore | None:
    file = folder.parent.parent / ADDRESS
    try:
        return _opened(file.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Damaged(f"{file}: not the address of a store ({error}). The next night writes it again.") from error


@lru_cache(maxsize=4)
def _opened(address: bytes) -> ObjectStore:
    return ObjectStore(**json.loads(address))
