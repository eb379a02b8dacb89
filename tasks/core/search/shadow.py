"""The challenger beside the serving release: the same queries to both, and how far the answers lie apart."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.plain_text import check_text
from tasks.core.base.settings import Settings
from tasks.core.base.side_files import numbered_lines, parse_object, read_side_file
from tasks.core.release.publisher import Loader, Opener, default_loader
from tasks.core.search.agreement import overlap, rank_biased, shift
from tasks.core.search.named_releases import SERVING, find_release, open_release
from tasks.core.search.pinned import Answer
from tasks.core.snapshot.reader import judged, load_snapshot

log = logging.getLogger("nightshift.search")

BATCH = 256  # queries asked at once


class ShadowResult(BaseModel):
    """One query and what both releases answered: ids of passages, best first."""

    model_config = ConfigDict(frozen=True)

    at: str  # UTC, ISO 8601
    query: str
    k: int
    serving: str
    shadow: str
    overlap: float
    rbo: float
    shift: float
    served: tuple[str, ...]
    shadowed: tuple[str, ...]


class Shadow(BaseModel):
    """How far a release's answers lie from the serving one's, as means over queries."""

    model_config = ConfigDict(frozen=True)

    serving: tuple[str, ...]  # more than one, where the pointer moved while live queries were seen
    shadow: str
    queries: int
    k: int
    overlap: float  # share of the k best passages in common
    rbo: float  # rank-biased overlap, p = 0.9
    shift: float  # ranks by which a passage moved
    same_first: float  # share of queries with the same best passage
    moved: tuple[ShadowResult, ...]  # the queries whose answers lie furthest apart


def shadow(
    settings: Settings,
    name: str,
    queries: Sequence[str],
    *,
    k: int = 10,
    show: int = 5,
    loader: Loader = default_loader,
    opener: Opener | None = None,
) -> Shadow:
    """Ask release `name` and the serving one the same queries. Neither the pointer nor what serves is touched.

    Raises NightshiftError when there is no query, and as `open_release` does.
    """
    if not queries:
        raise NightshiftError("no query to ask; give a file with one query a line, or a larger share")
    with ExitStack() as stack:
        ours = stack.enter_context(open_release(settings, SERVING, loader, opener))
        theirs = stack.enter_context(open_release(settings, name, loader, opener))
        log.info("asking %s and %s %d queries", ours.release, theirs.release, len(queries))
        found = []
        for first in range(0, len(queries), BATCH):
            asked = queries[first : first + BATCH]
            pairs = zip(ours.search(asked, k), theirs.search(asked, k), strict=True)
            found += [compare_answers(one, other, k) for one, other in pairs]
    return summary(found, show)


def compare_answers(served: Answer, shadowed: Answer, k: int) -> ShadowResult:
    """Both answers to one query, measured."""
    left, right = (tuple(hit.passage_id for hit in one.hits) for one in (served, shadowed))
    return ShadowResult(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        query=served.query,
        k=k,
        serving=served.release,
        shadow=shadowed.release,
        overlap=overlap(left, right),
        rbo=rank_biased(left, right),
        shift=shift(left, right),
        served=left,
        shadowed=right,
    )


def summary(found: Sequence[ShadowResult], show: int) -> Shadow:
    """Means over what was seen, and the `show` queries that moved most; `found` is not empty."""
    count = len(found)
    return Shadow(
        serving=tuple(dict.fromkeys(one.serving for one in found)),
        shadow=found[0].shadow,
        queries=count,
        k=max(one.k for one in found),
        overlap=sum(one.overlap for one in found) / count,
        rbo=sum(one.rbo for one in found) / count,
        shift=sum(one.shift for one in found) / count,
        same_first=sum(one.served[:1] == one.shadowed[:1] for one in found) / count,
        moved=tuple(sorted(found, key=lambda one: (one.rbo, -one.shift, one.query))[:show]),
    )


def held_out_queries(settings: Settings, opener: Opener | None = None) -> list[str]:
    """The held-out queries of the serving release's snapshot. Raises BadInput when the split has none."""
    snapshot = load_snapshot(settings.home, find_release(settings, SERVING, opener).snapshot)
    texts: list[str] = judged(snapshot, settings.evaluation.split)["text"].to_pylist()
    return texts


def read_queries(file: Path) -> list[str]:
    """One query a line: plain text, or where a line begins with a brace, JSON with "query" or "text".

    Raises BadInput naming the line that is neither, or the file that is missing or no text.
    """
    queries = []
    for number, line in numbered_lines(read_side_file(file, "a file with one query a line:")):
        try:
            queries.append(check_text(_query(line)))
        except ValueError as error:
            raise BadInput(f'{file}:{number}: {error}. Each line is a query, or JSON with "query" or "text"') from error
    return [query for query in queries if query]


def sample_queries(queries: Sequence[str], share: float, seed: int) -> list[str]:
    """A share of the queries, at least one where there are some, in their order; the same for the same seed."""
    wanted = min(len(queries), max(1, round(share * len(queries))))
    chosen = sorted(random.Random(seed).sample(range(len(queries)), wanted))  # noqa: S311
    return [queries[at] for at in chosen]


def _query(line: str) -> str:
    if not line.startswith("{"):
        return line
    record = parse_object(line)
    text = next((record[name] for name in ("query", "text") if name in record), None)
    if not isinstance(text, str):
        raise ValueError('no text under "query" or "text"')
    return text.strip()
