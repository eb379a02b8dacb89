"""Tombstones: keyed digests of forgotten ids and texts, which keep them out of answers and of later snapshots.

    <home>/forgotten/tombstones.json

The digests have a random key of the home, so they match in no other home and in no table of known digests. With the
file, a guess of an id or a text can still be checked, so it needs the same protection as the rest of the home.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.atomic_files import digest_of, exclusive, sync_folder
from tasks.core.base.checksums import read_record, write_record

FOLDER = "forgotten"  # in the home
FILE = "tombstones.json"
KINDS = ("passages", "queries", "texts")
BYTES = 16  # of a digest


@dataclass(frozen=True)
class Tombstones:
    """The digests of forgotten rows. Without any, nothing matches."""

    key: str = ""  # hex
    passages: frozenset[str] = frozenset()  # digests of passage ids
    queries: frozenset[str] = frozenset()  # digests of query ids
    texts: frozenset[str] = frozenset()  # digests of texts, with title, of passages and queries

    def __bool__(self) -> bool:
        return bool(self.passages or self.queries or self.texts)

    @property
    def digest(self) -> str:
        """Digest of all tombstones; part of the key of each snapshot that is made without their rows."""
        return digest_of({kind: sorted(getattr(self, kind)) for kind in KINDS})

    def digest_id(self, kind: str, row_id: str) -> str:
        """Return the digest of an id. `kind` is "passages" or "queries"."""
        return self._digest(kind, row_id)

    def digest_text(self, text: str) -> str:
        """Return the digest of a text; letter case and white space do not matter."""
        return self._digest("texts", " ".join(unicodedata.normalize("NFC", text).casefold().split()))

    def match_id(self, kind: str, row_id: str | None) -> bool:
        """Return whether an id is forgotten. `kind` is "passages" or "queries"."""
        return row_id is not None and self.digest_id(kind, row_id) in getattr(self, kind)

    def match_text(self, text: str | None) -> bool:
        """Return whether a text is forgotten. The text of a passage includes its title."""
        return text is not None and self.digest_text(text) in self.texts

    def plus(self, passages: Iterable[str], queries: Iterable[str], texts: Iterable[str]) -> Tombstones:
        """Return these tombstones and those of more ids and texts."""
        keyed = self if self.key else Tombstones(secrets.token_hex(BYTES))
        return Tombstones(
            keyed.key,
            keyed.passages.union(keyed.digest_id("passages", row_id) for row_id in passages),
            keyed.queries.union(keyed.digest_id("queries", row_id) for row_id in queries),
            keyed.texts.union(map(keyed.digest_text, texts)),
        )

    def _digest(self, kind: str, value: str) -> str:
        content = f"{kind} {value}".encode(errors="surrogatepass")
        return hashlib.blake2b(content, digest_size=BYTES, key=bytes.fromhex(self.key)).hexdigest()


def read_tombstones(home: Path) -> Tombstones:
    """Read the tombstones of a home; empty if nothing was ever forgotten.

    Raises:
        Damaged: the file is damaged. Restore it from a backup: without it, forgotten rows would return.
    """
    try:
        fields = read_record(home / FOLDER / FILE)
    except FileNotFoundError:
        return Tombstones()
    return Tombstones(fields["key"], *(frozenset(fields[kind]) for kind in KINDS))


def add_tombstones(home: Path, passages: Iterable[str], queries: Iterable[str], texts: Iterable[str]) -> Tombstones:
    """Add ids and texts to the tombstones of a home, in one atomic write; return all tombstones."""
    folder = home / FOLDER
    with exclusive(folder / f".{FILE}.lock"):
        before = read_tombstones(home)
        tombstones = before.plus(passages, queries, texts)
        if tombstones != before:
            digests = {kind: sorted(getattr(tombstones, kind)) for kind in KINDS}
            write_record(folder / FILE, {"key": tombstones.key, **digests})
            (folder / FILE).chmod(0o600)
            sync_folder(folder)
    return tombstones


class WatchedTombstones:
    """The tombstones of a home, read again when their file changes. Thread-safe."""

    def __init__(self, home: Path) -> None:
        self._file, self._home = home / FOLDER / FILE, home
        self._read: tuple[tuple[int, int, int], Tombstones] = ((0, 0, 0), Tombstones())

    def current(self) -> Tombstones:
        """Return the tombstones; costs one look at the file's times if it is unchanged. Raises as `read_tombstones`."""
        try:
            facts = self._file.stat()
        except FileNotFoundError:
            return Tombstones()
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if self._read[0] != stamp:
            self._read = (stamp, read_tombstones(self._home))
        return self._read[1]
