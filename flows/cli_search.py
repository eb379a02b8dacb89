"""The commands that ask: search, serve a search page, ask a challenger beside, hand a release to another tool."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import AsJson, SettingsFile, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.base.settings import Settings

search_commands = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="RELEASE", help="Its name, the beginning of it, or “serving”.")]


class Form(StrEnum):
    """What a release can be written as."""

    FAISS = "faiss"
    PARQUET = "parquet"
    TREC = "trec"


@search_commands.command(epilog='Example: nightshift search "read a csv file into a table" -k 3')
@readable_errors
def search(
    text: Annotated[str | None, typer.Argument(help="The query.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many passages.")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help='Rules on passages: {"title": {"prefix": "pandas."}}')
    ] = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="Join the ranking with BM25's.")] = False,
    release: Annotated[str, typer.Option(help="The release that answers, such as r0001.")] = "serving",
    serve: Annotated[bool, typer.Option("--serve", help="Answer over HTTP, with a page to try queries on.")] = False,
    host: Annotated[str, typer.Option(help="With --serve; others than this machine need a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --serve.")] = 8080,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Embed the query, search the serving release, print its passages with scores; or --serve."""
    if serve == (text is not None):
        raise typer.BadParameter("give a query, or --serve to answer queries over HTTP")
    rules = _rules(where)
    loaded = load(settings)
    if text is None:
        from tasks.core.search.http import serve as answer_over_http

        answer_over_http(loaded, host, port)
        return
    from tasks.core.search.named_releases import SERVING, open_release
    from tasks.core.search.searcher import Searcher

    with Searcher.open(loaded) if release == SERVING else open_release(loaded, release) as searcher:
        answer = searcher.search(text, k, where=rules, fuse=fuse)[0]
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    from flows.terminal import print_answer

    print_answer(answer)


def _rules(where: str | None) -> dict[str, Any]:
    try:
        found = json.loads(where or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"--where {where}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(
            f'--where {where}: not a table of rules. An example: {{"title": {{"prefix": "pandas."}}}}'
        )
    from tasks.core.search.filters import Filters

    Filters.read(found)
    return found


@search_commands.command(epilog="Example: nightshift shadow r0002 --queries asked.txt")
@readable_errors
def shadow(
    release: Name,
    queries: Annotated[
        Path | None, typer.Option(help="One query a line, as text or JSON; without it the held-out queries.")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Ask only this share of them.")] = 1.0,
    live: Annotated[bool, typer.Option("--live", help="What the service saw: [service] shadow_release.")] = False,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many passages a query.")] = 10,
    show: Annotated[int, typer.Option(min=0, help="How many of the queries that moved most.")] = 5,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Ask a release beside the serving one, and say how far the answers lie apart. Changes nothing that serves."""
    from tasks.core.search import shadow as shadowing

    loaded = load(settings)
    if live:
        found = _live(loaded, release, show)
    else:
        asked = shadowing.held_out_queries(loaded) if queries is None else shadowing.read_queries(queries)
        asked = asked if share == 1 else shadowing.sample_queries(asked, share, loaded.data.seed)
        found = shadowing.shadow(loaded, release, asked, k=k, show=show)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from flows.terminal_search import print_shadow

    print_shadow(found)


def _live(settings: Settings, name: str, show: int) -> Any:
    from tasks.core.search.live import live_summary
    from tasks.core.search.named_releases import find_release

    return live_summary(settings.home, find_release(settings, name).release, show)


@search_commands.command(epilog="Example: nightshift export serving --format faiss --to out/index")
@readable_errors
def export(
    release: Name,
    form: Annotated[Form, typer.Option("--format", help="faiss and parquet: all vectors; trec: a run.")],
    to: Annotated[Path, typer.Option(help="The folder to write; it must not be there yet.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Write a release for those who serve elsewhere."""
    from tasks.core.search.export import export as write

    typer.echo(write(load(settings), release, form.value, to, force=force))
