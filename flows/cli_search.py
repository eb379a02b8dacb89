"""Commands that query or export a release: search, shadow, export."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import AsJson, SettingsFile, load, print_json, readable_errors
from tasks.core.base.ranking import Mode

if TYPE_CHECKING:
    from tasks.core.base.settings import Settings

search_commands = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="RELEASE", help="Release name, its beginning, or “serving”.")]


class Form(StrEnum):
    """Export format of a release."""

    FAISS = "faiss"
    PARQUET = "parquet"
    TREC = "trec"


@search_commands.command(epilog='Example: nightshift search "read a csv file into a table" -k 3')
@readable_errors
def search(
    text: Annotated[str | None, typer.Argument(help="The query.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of passages to return.")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help='Filter on passages: {"title": {"prefix": "pandas."}}')
    ] = None,
    mode: Annotated[
        Mode | None, typer.Option(help="Rank with the encoder, BM25, or both. Default: as the night found best.")
    ] = None,
    fuse: Annotated[bool, typer.Option("--fuse", hidden=True, help="Earlier name of --mode hybrid.")] = False,
    release: Annotated[str, typer.Option(help="Release to search, such as r0001.")] = "serving",
    serve: Annotated[bool, typer.Option("--serve", help="Serve an HTTP API and a search page.")] = False,
    host: Annotated[
        str, typer.Option(help="Address for --serve. Addresses other than this machine need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port for --serve.")] = 8080,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Search the serving release and print passages with scores, or serve search over HTTP (--serve)."""
    if serve == (text is not None):
        raise typer.BadParameter("give a query, or --serve to serve search over HTTP")
    filters = _parse_filters(where)
    loaded = load(settings)
    if text is None:
        from tasks.core.search.http import serve as serve_http

        serve_http(loaded, host, port)
        return
    from tasks.core.search.named_releases import SERVING, open_release
    from tasks.core.search.searcher import Searcher

    with Searcher.open(loaded) if release == SERVING else open_release(loaded, release) as searcher:
        answer = searcher.search(text, k, where=filters, mode=Mode.HYBRID if fuse else mode)[0]
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    from flows.terminal import print_answer

    print_answer(answer)


def _parse_filters(where: str | None) -> dict[str, Any]:
    try:
        filters = json.loads(where or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"--where {where}: not JSON ({error})") from error
    if not isinstance(filters, dict):
        raise typer.BadParameter(f'--where {where}: not a JSON object. Example: {{"title": {{"prefix": "pandas."}}}}')
    from tasks.core.search.filters import Filters

    Filters.read(filters)
    return filters


@search_commands.command(epilog="Example: nightshift shadow r0002 --queries queries.txt")
@readable_errors
def shadow(
    release: Name,
    queries: Annotated[
        Path | None, typer.Option(help="File with one query per line, as text or JSON. Default: the held-out queries.")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of the queries to run, between 0 and 1.")] = 1.0,
    live: Annotated[
        bool, typer.Option("--live", help="Report the live traffic that service.shadow_release collected.")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of passages per query.")] = 10,
    show: Annotated[int, typer.Option(min=0, help="Number of queries to show, largest rank changes first.")] = 5,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Compare the rankings of a release with those of the serving release. Does not change what serves."""
    from tasks.core.search import shadow as shadowing

    loaded = load(settings)
    if live:
        comparison = _live(loaded, release, show)
    else:
        texts = (
            shadowing.held_out_queries(loaded, loaded.evaluation.split)
            if queries is None
            else shadowing.read_queries(queries)
        )
        texts = texts if share == 1 else shadowing.sample_queries(texts, share, loaded.data.seed)
        comparison = shadowing.shadow(loaded, release, texts, k=k, show=show)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
        return
    from flows.terminal_search import print_shadow

    print_shadow(comparison)


def _live(settings: Settings, name: str, show: int) -> Any:
    from tasks.core.search.live import live_summary
    from tasks.core.search.named_releases import find_release

    return live_summary(settings.home, find_release(settings, name).release, show)


@search_commands.command(epilog="Example: nightshift export serving --format faiss --to out/index")
@readable_errors
def export(
    release: Name,
    form: Annotated[Form, typer.Option("--format", help="faiss, parquet: all vectors. trec: a run.")],
    to: Annotated[Path, typer.Option(help="Folder to write. It must not exist yet.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing export.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Export a release for use in other tools."""
    from tasks.core.search.export import export as write

    typer.echo(write(load(settings), release, form.value, to, force=force))
