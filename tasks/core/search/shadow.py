"""Shadowing: send the same queries to the serving release and a challenger, and compare the rankings."""

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
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.publisher import Loader, Opener, default_loader
from tasks.core.search.agreement import overlap, rank_biased, shift
from tasks.core.search.named_releases import SERVING, find_release, open_release
from tasks.core.search.pinned import Answer
from tasks.core.snapshot.reader import judged, load_snapshot

log = logging.getLogger("nightshift.search")

BATCH = 256  # queries per search


class ShadowResult(BaseModel):
    """One query with the passage ids that both releases returned, best first."""

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
    """Agreement between a release and the serving release, as means over queries."""

    model_config = ConfigDict(frozen=True)

    serving: tuple[str, ...]  # several if the pointer moved while live queries were shadowed
    shadow: str
    queries: int
    k: int
    overlap: float  # shared passages among the k best
    rbo: float  # rank-biased overlap, p = 0.9
    shift: float  # mean rank change of a passage
    same_first: float  # share of queries with the same best passage
    moved: tuple[ShadowResult, ...]  # queries with the lowest agreement


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
    """Search the same queries in release `name` and the serving release. Changes nothing in the home.

    Args:
        settings: all settings.
        name: release to compare.
        queries: query texts.
        k: passages per query.
        show: number of queries with the lowest agreement to return.
        loader: loads encoders.
        opener: opens collections; None: the vector store of the settings.

    Raises:
        NightshiftError: there are no queries, or as `open_release`.
    """
    if not queries:
        raise NightshiftError("there are no queries. Give a file with one query per line, or a larger share")
    with ExitStack() as stack:
        serving = stack.enter_context(open_release(settings, SERVING, loader, opener))
        challenger = stack.enter_context(open_release(settings, name, loader, opener))
        log.info("comparing %s and %s on %d queries", serving.release, challenger.release, len(queries))
        results = []
        for first in range(0, len(queries), BATCH):
            batch = queries[first : first + BATCH]
            pairs = zip(serving.search(batch, k), challenger.search(batch, k), strict=True)
            results += [compare_answers(served, shadowed, k) for served, shadowed in pairs]
    return summary(results, show)


def compare_answers(served: Answer, shadowed: Answer, k: int) -> ShadowResult:
    """Measure the agreement of two answers to the same query."""
    left, right = (tuple(hit.passage_id for hit in answer.hits) for answer in (served, shadowed))
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


def summary(results: Sequence[ShadowResult], show: int) -> Shadow:
    """Average the results, and pick the `show` queries with the lowest agreement. `results` must not be empty."""
    count = len(results)
    return Shadow(
        serving=tuple(dict.fromkeys(result.serving for result in results)),
        shadow=results[0].shadow,
        queries=count,
        k=max(result.k for result in results),
        overlap=sum(result.overlap for result in results) / count,
        rbo=sum(result.rbo for result in results) / count,
        shift=sum(result.shift for result in results) / count,
        same_first=sum(result.served[:1] == result.shadowed[:1] for result in results) / count,
        moved=tuple(sorted(results, key=lambda result: (result.rbo, -result.shift, result.query))[:show]),
    )


def held_out_queries(settings: HomeSettings, split: str) -> list[str]:
    """Return the queries of a split of the serving release's snapshot. Raises BadInput if the split has none."""
    snapshot = load_snapshot(settings.home, find_release(settings, SERVING).snapshot)
    texts: list[str] = judged(snapshot, split)["text"].to_pylist()
    return texts


def read_queries(file: Path) -> list[str]:
    """Read one query per line: plain text, or JSON with "query" or "text" if the line begins with a brace.

    Raises:
        BadInput: the file is missing or is not text, or a line is invalid; the message names the line.
    """
    queries = []
    for number, line in numbered_lines(read_side_file(file, "a file with one query per line:")):
        try:
            queries.append(check_text(_query(line)))
        except ValueError as error:
            raise BadInput(f'{file}:{number}: {error}. Each line is a query, or JSON with "query" or "text"') from error
    return [query for query in queries if query]


def sample_queries(queries: Sequence[str], share: float, seed: int) -> list[str]:
    """Draw a share of the queries, at least 1, in their order; the same for the same seed."""
    count = min(len(queries), max(1, round(share * len(queries))))
    chosen = sorted(random.Random(seed).sample(range(len(queries)), count))  # noqa: S311
    return [queries[at] for at in chosen]


def _query(line: str) -> str:
    if not line.startswith("{"):
        return line
    record = parse_object(line)
    text = next((record[name] for name in ("query", "text") if name in record), None)
    if not isinstance(text, str):
        raise ValueError('no text under "query" or "text"')
    return text.strip()
