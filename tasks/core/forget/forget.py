"""Forget passages and queries: remove them from answers at once, and their texts and vectors from every file of a home.

The tombstones come first: from then on no search returns the passages, and no night stores the rows again. Then each
step finds what is left and removes it, so a run that was killed continues from the start and ends the same. Texts are
read from the snapshots, which therefore go last.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from filelock import Timeout

from tasks.core.base import artifact_store
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import exclusive, write_json
from tasks.core.base.receipts import Snapshot
from tasks.core.base.settings import Settings
from tasks.core.forget.artifacts import remove_unclean
from tasks.core.forget.collections import drop_collections, pinned_among, unclean_collections, wait_for_readers
from tasks.core.forget.contents import Contents, find_encoders
from tasks.core.forget.files import loose_files, scrub_file
from tasks.core.forget.fragments import Fragments
from tasks.core.forget.plan import PENDING, RECEIPTS, ForgetReceipt, Pending, Plan, read_pending, releases_with
from tasks.core.forget.rebuild import publish_without
from tasks.core.forget.store import StoredArtifacts
from tasks.core.ingest.snapshot_without import Rows, other_texts
from tasks.core.release.history import known_releases, serving
from tasks.core.release.prune import prune
from tasks.core.release.publisher import Loader, default_loader
from tasks.core.release.vector_stores import open_publisher
from tasks.core.text.synthetic_queries import is_synthetic
from tasks.core.text.tombstones import FOLDER, Tombstones, add_tombstones, read_tombstones

log = logging.getLogger("nightshift.forget")
SCRATCH = ".scratch"  # in home/forgotten
CONTINUE = (
    "No search returns the passages, and no later night stores the rows. Left to do: {left}. "
    "Then continue with `nightshift forget`"
)


def plan_forget(
    settings: Settings, passages: Collection[str], queries: Collection[str], databases: Sequence[Path] = ()
) -> Plan:
    """Return what forgetting these ids would rebuild and remove. Changes nothing. Parameters as in `forget`."""
    widened = _widen(settings.home, passages, queries, read_tombstones(settings.home))
    return _Run(settings, widened.tombstones, databases).plan(widened)


def forget(
    settings: Settings,
    passages: Collection[str],
    queries: Collection[str],
    *,
    databases: Sequence[Path] = (),
    loader: Loader = default_loader,
) -> ForgetReceipt:
    """Forget passages and queries, and all rows with the same text; also finish an earlier run that did not end.

    Args:
        settings: of the home.
        passages: ids of passages.
        queries: ids of queries.
        databases: SQLite files outside of the home that may show texts, such as that of Prefect.
        loader: loads the encoder of the serving release.

    Returns: the receipt, which is also stored in the home.

    Raises:
        NightshiftError: it cannot finish now; the message names the reason and the steps that are left. Their
            tombstones are written: no search returns the passages.
    """
    home = settings.home
    widened = _widen(home, passages, queries, read_tombstones(home))
    pending = read_pending(home) or Pending(begun=_now())
    pending.write(home)
    tombstones = add_tombstones(home, widened.passages, widened.queries, widened.texts)
    log.info("tombstones written for %d passages and %d queries", len(widened.passages), len(widened.queries))
    try:
        with exclusive(home / "night.lock", timeout=0):
            return _Run(settings, tombstones, databases, loader).carry_out(pending, widened)
    except Timeout as error:
        left = "; ".join(_Run.STEPS)
        raise NightshiftError(
            f"home {home.absolute()}: a night runs. Wait until it has ended. {CONTINUE.format(left=left)}"
        ) from error


class _Widened:
    """The ids of a request and of all rows with their texts, and the tombstones of these."""

    def __init__(self, passages: set[str], queries: set[str], before: Tombstones) -> None:
        self.passages, self.queries, self.texts, self.before = passages, queries, set[str](), before
        self.unknown = 0

    @property
    def tombstones(self) -> Tombstones:
        return self.before.plus(self.passages, self.queries, self.texts)


def _widen(home: Path, passages: Collection[str], queries: Collection[str], before: Tombstones) -> _Widened:
    """Add all versions of the texts in the snapshots of the home, and the ids of other rows with these texts."""
    widened = _Widened(set(passages), set(queries), before)
    while True:
        size = len(widened.passages) + len(widened.queries) + len(widened.texts)
        rows = Contents(home, widened.tombstones).rows.values()
        widened.passages.update(row for each in rows for row in each.passages if not is_synthetic(row))
        widened.queries.update(row for each in rows for row in each.queries)
        widened.texts.update(
            texts[0]
            for each in rows
            for table in (each.passages, each.queries)
            for row, texts in table.items()
            if not is_synthetic(row)  # such as a heading, which people may search for
        )
        if len(widened.passages) + len(widened.queries) + len(widened.texts) == size:
            break
    known = {row for each in rows for table in (each.passages, each.queries) for row in table}
    widened.unknown = len({*passages, *queries} - known)
    return widened


class _Run:
    """The steps of forgetting. Each can run again at any time."""

    STEPS = (
        "publish the release without the rows",
        "clean reports, logs, and databases",
        "remove collections",
        "remove artifacts from the object store",
        "remove artifacts",
    )

    def __init__(
        self, settings: Settings, tombstones: Tombstones, databases: Sequence[Path], loader: Loader = default_loader
    ) -> None:
        self._settings, self._home, self._tombstones, self._loader = settings, settings.home, tombstones, loader
        self._databases = [file for file in databases if file.exists() and not file.is_relative_to(self._home)]
        self._contents = Contents(self._home, tombstones)
        self._publisher = open_publisher(self._home, settings.milvus)
        self._fragments: Fragments | None = None
        self.embedded = 0

    @cached_property
    def _unclean(self) -> set[str]:
        """The collections with a forgotten row when the run began. What the run itself builds has none."""
        return unclean_collections(self._settings, self._contents, self._tombstones, self._publisher)

    def plan(self, widened: _Widened) -> Plan:
        """Look for everything that a forgotten row may be in."""
        current, _ = serving(self._settings)
        releases = known_releases(self._settings)
        concerned = [release.release for release in releases if release.collection in self._unclean]
        encoders = find_encoders(self._home, self._contents)
        store = self._open_store()
        return Plan(
            passages=tuple(sorted(self._tombstones.digest_id("passages", row_id) for row_id in widened.passages)),
            queries=tuple(sorted(self._tombstones.digest_id("queries", row_id) for row_id in widened.queries)),
            texts=len(widened.texts),
            unknown=widened.unknown,
            rebuild=tuple(name for name in concerned if current is not None and name == current.release),
            drop=tuple(name for name in concerned if current is None or name != current.release),
            pinned=tuple(pinned_among(self._settings, self._unclean)),
            collections=tuple(sorted(self._unclean)),
            artifacts=tuple(sorted(f"{receipt.shelf}/{receipt.digest}" for receipt in self._contents.unclean)),
            stored=() if store is None else tuple(store.find()),
            files=self._scrub(apply=False),
            encoders=tuple(encoders),
            learned=tuple(releases_with(releases, encoders)),
            outside=tuple(_places_outside(self._settings)),
        )

    def carry_out(self, pending: Pending, widened: _Widened) -> ForgetReceipt:
        """Run all steps and write the receipt. Raises NightshiftError with the steps that are left."""
        shutil.rmtree(self._home / FOLDER / SCRATCH, ignore_errors=True)
        actions: tuple[Callable[[], None], ...] = (
            self._rebuild, self._clean_files, self._drop_collections, self._clean_store, self._remove_artifacts
        )  # fmt: skip
        number = 0
        try:
            pending = self._plan_again(pending, widened)
            pending.write(self._home)
            self._check_pins()
            for number, action in enumerate(actions):
                log.info("forget [%d/%d] %s", number + 1, len(actions), self.STEPS[number])
                action()
        except (NightshiftError, OSError) as error:
            left = "; ".join(self.STEPS[number:])
            raise NightshiftError(f"{error}\n{CONTINUE.format(left=left)}") from error
        return self._write_receipt(pending)

    def _plan_again(self, pending: Pending, widened: _Widened) -> Pending:
        """Add what is left to the plan of a killed run. What encoders have read was decided before, from all rows."""
        plan = self.plan(widened)
        if pending.tombstones == self._tombstones.digest:
            plan = plan.model_copy(update={"encoders": (), "learned": (), "unknown": 0})
        drop = tuple(name for name in plan.drop if name not in pending.plan.rebuild)  # they served when it began
        plan = pending.plan.plus(plan.model_copy(update={"drop": drop, "pinned": ()}))  # it finishes without pins
        return pending.model_copy(update={"tombstones": self._tombstones.digest, "plan": plan})

    def _check_pins(self) -> None:
        if pinned := pinned_among(self._settings, self._unclean):
            commands = ", ".join(f"nightshift releases unpin {name}" for name in pinned)
            raise NightshiftError(f"releases with forgotten rows are pinned, so they cannot be removed: {commands}")

    def _rebuild(self) -> None:
        current, epoch = serving(self._settings)
        if current is not None and current.collection in self._unclean:
            self._find_fragments()  # before the snapshot that serves has changed
            rows = self._contents.rows.get(current.snapshot, Rows())
            self.embedded += publish_without(self._settings, current, epoch, rows, self._loader)
            self._contents = Contents(self._home, self._tombstones)

    def _clean_files(self) -> None:
        self._scrub(apply=True)

    def _drop_collections(self) -> None:
        drop_collections(self._settings, self._unclean, self._publisher)
        prune(self._settings)  # what an interrupted run has built
        wait_for_readers(self._settings, self._publisher)

    def _clean_store(self) -> None:
        if (store := self._open_store()) is not None:
            for where in store.find():
                store.remove(where)
                log.debug("%s: removed from the store", where)
            log.info("Removed %d interrupted uploads from the store", store.remove_interrupted_uploads())

    def _remove_artifacts(self) -> None:
        remove_unclean(self._home, self._contents)

    def _scrub(self, *, apply: bool) -> dict[str, int]:
        """Return the number of pieces of texts in each file that has any; with `apply`, remove them."""
        fragments = self._find_fragments()
        pieces = {}
        for file in [*loose_files(self._home), *self._databases]:
            if count := scrub_file(file, fragments, self._tombstones, apply=apply):
                inside = file.is_relative_to(self._home)
                pieces[str(file.relative_to(self._home) if inside else file)] = count
                if apply:
                    log.debug("%s: removed %d pieces of texts", file, count)
        return pieces

    def _find_fragments(self) -> Fragments:
        if self._fragments is None:
            current, _ = serving(self._settings)
            rows = Rows() if current is None else self._contents.rows.get(current.snapshot, Rows())
            folder = None if current is None else self._home / Snapshot.shelf / current.snapshot
            kept = other_texts(folder, rows) if folder is not None and folder.is_dir() else iter(())
            self._fragments = Fragments(self._contents.texts, kept)
        return self._fragments

    def _open_store(self) -> StoredArtifacts | None:
        store = artifact_store.open_store(self._home)
        if store is None:
            return None
        scratch = self._home / FOLDER / SCRATCH
        scratch.mkdir(parents=True, exist_ok=True)
        return StoredArtifacts(store, self._contents, self._tombstones, scratch)

    def _write_receipt(self, pending: Pending) -> ForgetReceipt:
        current, _ = serving(self._settings)
        receipt = ForgetReceipt(
            begun=pending.begun,
            ended=_now(),
            tombstones=self._tombstones.digest,
            serving="" if current is None else current.release,
            embedded=self.embedded,
            plan=pending.plan,
        )
        # The same name again if this process is killed before it removes the plan.
        name = f"{datetime.fromisoformat(pending.begun):%Y-%m-%dT%H%M%S%fZ}.json"
        write_json(self._home / FOLDER / RECEIPTS / name, receipt.model_dump(mode="json"))
        shutil.rmtree(self._home / FOLDER / SCRATCH, ignore_errors=True)
        (self._home / FOLDER / PENDING).unlink()
        log.info("forgotten; the receipt is %s", self._home / FOLDER / RECEIPTS / name)
        return receipt


def _places_outside(settings: Settings) -> list[str]:
    """Return what may still have the texts, because it is not Nightshift's to change."""
    paths = dict.fromkeys([settings.data.path, *(part.path for part in settings.data.sources)])
    places = [f"source {path}" for path in paths if path]
    log_file = settings.drift.queries
    if log_file is not None and not log_file.absolute().is_relative_to(settings.home.absolute()):
        places.append(f"query log {log_file}")
    if settings.tracking.tracker != "none":
        places.append(f"tracker {settings.tracking.tracker}")
    return places


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
