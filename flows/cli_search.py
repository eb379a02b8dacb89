"""Commands that query a release, or export data: search, serve, shadow, export, mine."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import AsJson, Panel, SettingsFile, load, print_json, readable_errors
from tasks.core.base.ranking import Mode

if TYPE_CHECKING:
    from tasks.core.base.settings import Settings

search_commands = typer.Typer()

EXAMPLE = 'Example: {"title": {"prefix": "pandas."}}'
Name = Annotated[str, typer.Argument(metavar="RELEASE", help="Release name, its beginning, or “serving”.")]


class Form(StrEnum):
    """Export format of a release."""

    FAISS = "faiss"
    PARQUET = "parquet"
    TREC = "trec"
    HUB = "hub"
    TRIPLETS = "triplets"
    N_TUPLES = "n-tuples"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    TEVATRON = "tevatron"


class TrainingForm(StrEnum):
    """Layout of exported training data."""

    TRIPLETS = "triplets"
    N_TUPLES = "n-tuples"
    SENTENCE_TRANSFORMERS = "sentence-transformers"
    TEVATRON = "tevatron"


@search_commands.command(
    rich_help_panel=Panel.QUERY, epilog='Example: nightshift search "read a csv file into a table" -k 3'
)
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
    serve_instead: Annotated[
        bool, typer.Option("--serve", hidden=True, help="Earlier form of nightshift serve.")
    ] = False,
    host: Annotated[str, typer.Option(hidden=True)] = "127.0.0.1",
    port: Annotated[int, typer.Option(hidden=True, min=0, max=65535)] = 8080,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Search the serving release and print passages with scores."""
    if serve_instead == (text is not None):
        raise typer.BadParameter("give a query. To serve search over HTTP: nightshift serve")
    filters = _parse_filters(where)
    if text is None:
        serve(host, port, settings)
        return
    loaded = load(settings)
    from tasks.core.search.named_releases import SERVING, open_release
    from tasks.core.search.searcher import Searcher

    with Searcher.open(loaded) if release == SERVING else open_release(loaded, release) as searcher:
        answer = searcher.search(text, k, where=filters, mode=Mode.HYBRID if fuse else mode)[0]
    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    from flows.terminal import print_answer

    print_answer(answer)


@search_commands.command(rich_help_panel=Panel.QUERY, epilog="Example: nightshift serve --port 8080")
@readable_errors
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Addresses other than this machine need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8080,
    settings: SettingsFile = None,
) -> None:
    """Serve search over HTTP, with a search page, until Ctrl+C."""
    from tasks.core.search.http import serve as serve_http

    serve_http(load(settings), host, port)


def _parse_filters(where: str | None) -> dict[str, Any]:
    try:
        filters = json.loads(where or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"--where {where}: not JSON ({error}). {EXAMPLE}") from error
    if not isinstance(filters, dict):
        raise typer.BadParameter(f"--where {where}: not a JSON object. {EXAMPLE}")
    from tasks.core.search.filters import Filters

    Filters.read(filters)
    return filters


@search_commands.command(rich_help_panel=Panel.QUERY, epilog="Example: nightshift shadow r0002 --queries queries.txt")
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


@search_commands.command(
    rich_help_panel=Panel.QUERY, epilog="Example: nightshift export serving --format hub --to out/model"
)
@readable_errors
def export(
    release: Name,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            help="faiss, parquet: all vectors. trec: a run. hub: the encoder with its model card. triplets, n-tuples, "
            "sentence-transformers, tevatron: the negatives that trained it.",
        ),
    ],
    to: Annotated[
        Path, typer.Option(help="Folder to write; it must not exist yet. With --upload, ORGANIZATION/NAME on the hub.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing export.")] = False,
    upload: Annotated[
        bool, typer.Option("--upload", help="Upload to the Hugging Face Hub, as a private model if it is new.")
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="With --upload: a new model is public.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Export a release for use in other tools."""
    from tasks.core.search.export import export as write
    from tasks.core.search.hub import upload as send

    if not upload:
        typer.echo(write(load(settings), release, form.value, to, force=force))
        return
    if form is not Form.HUB:
        raise typer.BadParameter("--upload needs --format hub")
    with TemporaryDirectory(prefix="nightshift-") as folder:
        model = write(load(settings), release, form.value, Path(folder) / "model")
        typer.echo(send(model, to.as_posix(), public=public))


@search_commands.command(
    rich_help_panel=Panel.DATA, epilog="Example: nightshift mine --format triplets --to out/triplets"
)
@readable_errors
def mine(
    form: Annotated[TrainingForm, typer.Option("--format", help="Layout of the training files.")],
    to: Annotated[Path, typer.Option(help="Folder to write. It must not exist yet.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an existing export.")] = False,
    settings: SettingsFile = None,
) -> None:
    """Validate the source, mine hard negatives with BM25 and the base model, and write them. Trains nothing."""
    from flows.terminal_log import announce
    from tasks.core.training.mine_only import mine_source
    from tasks.core.training.training_files import write_training_files

    loaded = load(settings)
    announce("Validating the source and mining negatives")
    add_pairs = None
    if loaded.makes_pairs:
        from tasks.core.synthesis.synthesize import add_synthetic_pairs

        add_pairs = lambda snapshot: add_synthetic_pairs(loaded, snapshot)[0]  # noqa: E731
    snapshot, negatives = mine_source(loaded, add_pairs)
    typer.echo(write_training_files(form.value, snapshot, negatives, to, force=force))
