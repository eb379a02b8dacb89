"""The command that labels queries with a language model: label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import Panel, SettingsFile, echo, fail, load, readable_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.core.base.settings import Settings
    from tasks.core.synthesis.judge import JudgePair

label_commands = typer.Typer()


@label_commands.command(
    rich_help_panel=Panel.DATA, epilog="Example: nightshift label --queries queries.txt --to labels --dry-run"
)
@readable_errors
def label(
    to: Annotated[Path, typer.Option(help="Folder to write. It must not exist yet.")],
    queries: Annotated[
        Path | None, typer.Option(help="File with one query per line, as text or JSON. Default: the held-out queries.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Passages per query to judge.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and stop.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Label the best passages of queries with the language model of the settings, and compare it with people."""
    from flows.terminal_log import announce
    from tasks.core.search import shadow
    from tasks.core.snapshot.splits import SYNTHETIC

    loaded = load(settings)
    if not loaded.generate.url:
        fail("no language model: set [generate] url, model, and budget")
    if to.exists():
        fail(f"{to} exists already. Remove it, or choose another folder: --to labels-2")
    if queries is None and loaded.evaluation.split == SYNTHETIC:
        fail("the held-out queries are synthetic: give queries of people with --queries FILE")
    announce("Searching the passages to judge")
    texts = (
        shadow.held_out_queries(loaded, loaded.evaluation.split) if queries is None else shadow.read_queries(queries)
    )
    people, positives = _labels_of_people(loaded, texts)
    pairs = [*_hits(loaded, texts, k), *positives]
    from tasks.core.synthesis import judge
    from tasks.core.synthesis.endpoint import Endpoint

    prompts = judge.judge_prompts(pairs, loaded.generate)
    if dry_run:
        endpoint = Endpoint(loaded.home, loaded.generate)
        stored = endpoint.stored(list(prompts.values()))
        echo(endpoint.estimate([prompt for prompt in prompts.values() if prompt not in stored]))
        return
    labels = judge.judge_pairs(loaded.home, prompts, loaded.generate)
    agreement = judge.compare_labels(labels, people)
    count = judge.write_labels(to, labels, people, agreement)
    echo(f"judged {len(labels):,} of {len(prompts):,} pairs; {count:,} queries without labels of people got labels")
    echo(str(agreement) if agreement.pairs else "no query has labels of people, so the agreement is unknown")
    echo(f"wrote {to}")


def _hits(settings: Settings, texts: Sequence[str], k: int) -> list[JudgePair]:
    from tasks.core.search.searcher import Searcher
    from tasks.core.synthesis.judge import JudgePair

    with Searcher.open(settings) as searcher:
        answers = searcher.search(texts, k)
    return [
        JudgePair(text, hit.passage_id, hit.title, hit.text)
        for text, answer in zip(texts, answers, strict=True)
        for hit in answer.hits
    ]


def _labels_of_people(settings: Settings, texts: Sequence[str]) -> tuple[dict[str, set[str]], list[JudgePair]]:
    """Return query -> relevant passages of the labeled queries among `texts`, and these pairs with their texts."""
    from tasks.core.search.named_releases import SERVING, find_release
    from tasks.core.snapshot.reader import load_snapshot
    from tasks.core.synthesis.judge import positives_of_people

    return positives_of_people(load_snapshot(settings.home, find_release(settings, SERVING).snapshot), texts)
