"""The commands around releases: list them, pin one, let it go again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, SettingsFile, fail, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.base.receipts import Release

releases = typer.Typer(help="List the releases, newest first, and which one serves.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="RELEASE", help="Its name or the beginning of it, such as r0001.")]


@releases.callback(epilog="Example: nightshift releases --json")
@readable_errors
def listing(context: typer.Context, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """List the releases, newest first, and which one serves."""
    if context.invoked_subcommand is not None:
        return
    from tasks.core.release.pins import pinned
    from tasks.core.release.publish import list_releases, serving

    loaded = load(settings)
    current, _ = serving(loaded)
    known, kept = list_releases(loaded), pinned(loaded.home)
    if as_json:
        shown = [{**_shown(one), "pinned": one.release in kept, "pruned": one.pruned} for one in known]
        print_json({"serving": current.release if current else None, "releases": shown})
        return
    from flows.terminal import print_releases

    print_releases(current, known, kept)


@releases.command(epilog="Example: nightshift releases pin r0001")
@readable_errors
def pin(release: Name, settings: SettingsFile = None) -> None:
    """Never prune this release."""
    from tasks.core.release.publish import pin as keep

    kept = keep(load(settings), release)
    typer.echo(f"release {kept.release} is pinned: it stays until `nightshift releases unpin {kept.release}`")


@releases.command(epilog="Example: nightshift releases unpin r0001")
@readable_errors
def unpin(release: Name, settings: SettingsFile = None) -> None:
    """Let retention decide about this release again."""
    from tasks.core.release.publish import unpin as let_go

    freed = let_go(load(settings), release)
    typer.echo(f"release {freed} is not pinned any more")


@releases.command(epilog="Example: nightshift releases repair")
@readable_errors
def repair(settings: SettingsFile = None) -> None:
    """Verify the serving release, and rebuild what is damaged from the stored vectors. Embeds nothing."""
    from tasks.core.release.repair import repair as rebuild

    release, _ = rebuild(load(settings))
    if release is None:
        fail("no release serves; `nightshift rollback` takes an older one, `nightshift run` makes one")
    typer.echo(f"release {release.release} serves and is whole")


def _shown(release: Release) -> dict[str, object]:
    named = ("release", "created", "collection", "snapshot", "metrics", "bm25", "base", "previous")
    fields = release.model_dump(mode="json", include=set(named))
    return {**{name: fields[name] for name in named}, "encoder": release.fingerprint, "passages": release.rows}
