"""Removes the artifacts that forgotten rows may be in. The snapshots, from which their texts are read, go last."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from tasks.core.base.receipts import Ingested, Snapshot
from tasks.core.forget.contents import Contents, kinds_of_artifacts
from tasks.core.ingest.ingest import REFUSED
from tasks.core.release.retention import remove_artifact

log = logging.getLogger("nightshift.forget")


def remove_unclean(home: Path, contents: Contents) -> None:
    """Remove unclean, unfinished, damaged, and half removed artifacts, and the quarantines of stopped nights."""
    unclean = contents.unclean
    last = [receipt.path for kind in (Ingested, Snapshot) for receipt in unclean if isinstance(receipt, kind)]
    first = [receipt.path for receipt in unclean if receipt.path not in last]
    for folder in (*first, *_leftovers(home)):
        _remove(folder)
    for folder in (*contents.quarantines, *(home / REFUSED).glob(".*")):
        if folder.parent.name == REFUSED:
            shutil.rmtree(folder)
    for folder in last:
        _remove(folder)


def _leftovers(home: Path) -> Iterator[Path]:
    hidden = (path for shelf in kinds_of_artifacts() for path in sorted((home / shelf).glob(".*")))
    return (path for path in hidden if path.is_dir())


def _remove(folder: Path) -> None:
    log.debug("%s/%s: removing", folder.parent.name, folder.name)
    remove_artifact(folder)
