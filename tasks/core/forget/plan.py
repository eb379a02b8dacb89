"""What forgetting will do, and the receipt of what it did: digests and counts, never a text or an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.base.files import write_json
from tasks.core.base.receipts import Release
from tasks.core.text.tombstones import FOLDER

PENDING = "pending.json"  # in home/forgotten: the plan of an unfinished run
RECEIPTS = "receipts"  # folder in home/forgotten


class Plan(BaseModel):
    """What must be rebuilt and removed. A later run of the same request adds what it finds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passages: tuple[str, ...] = ()  # keyed digests of the ids
    queries: tuple[str, ...] = ()
    texts: int = 0  # different texts, with title
    unknown: int = 0  # requested ids that are in no snapshot; their tombstones keep them out of later nights
    rebuild: tuple[str, ...] = ()  # serving releases that are replaced
    drop: tuple[str, ...] = ()  # other releases whose collections are removed
    pinned: tuple[str, ...] = ()  # releases with the rows; a run cannot finish until they are unpinned
    collections: tuple[str, ...] = ()  # collections to remove, also of generations that never served
    artifacts: tuple[str, ...] = ()  # shelf/digest
    stored: tuple[str, ...] = ()  # shelf/digest in the object store
    files: dict[str, int] = {}  # path → pieces of texts
    encoders: tuple[str, ...] = ()  # digests of encoders whose training may have read a forgotten row
    learned: tuple[str, ...] = ()  # releases with these encoders, pruned or not
    outside: tuple[str, ...] = ()  # places that may have the texts and that Nightshift does not change

    def plus(self, other: Plan) -> Plan:
        """Return both plans as a single plan."""
        lists = [name for name, value in self if isinstance(value, tuple)]
        joined = {name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name)))) for name in lists}
        files = {name: max(self.files.get(name, 0), other.files.get(name, 0)) for name in self.files | other.files}
        counts = {name: max(getattr(self, name), getattr(other, name)) for name in ("texts", "unknown")}
        return Plan.model_validate({**joined, **counts, "files": files})

    def artifact_counts(self) -> Mapping[str, int]:
        """Return the number of removed artifacts by shelf."""
        return dict(sorted(Counter(name.partition("/")[0] for name in self.artifacts).items()))


class ForgetReceipt(BaseModel):
    """Proof of a finished run, in `home/forgotten/receipts/<time when it began>.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begun: str  # UTC, ISO 8601
    ended: str
    tombstones: str  # digest of all tombstones of the home
    serving: str  # release that serves afterwards; empty: none
    embedded: int  # passages that had to be encoded for it; 0 if all vectors were reused
    plan: Plan


class Pending(BaseModel):
    """A run that has not finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    begun: str
    tombstones: str = ""  # digest of the tombstones that the plan is for; empty: there is no plan yet
    plan: Plan = Plan()

    def write(self, home: Path) -> None:
        """Store it atomically."""
        write_json(home / FOLDER / PENDING, self.model_dump(mode="json"))


def read_pending(home: Path) -> Pending | None:
    """Return the unfinished run of a home; None if there is none."""
    try:
        return Pending.model_validate_json((home / FOLDER / PENDING).read_bytes())
    except FileNotFoundError:
        return None


def releases_with(releases: Iterable[Release], encoders: Iterable[str]) -> list[str]:
    """Return the names of the releases whose encoder is one of these digests, oldest first."""
    wanted = set(encoders)
    return [release.release for release in reversed(list(releases)) if release.encoder in wanted]
