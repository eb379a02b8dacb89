"""Commands for releases: list, pin, unpin, repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, SettingsFile, fail, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.base.receipts import Release

releases = typer.Typer(help="List releases, newest first, and mark the serving release.", invoke_without_command=True)

Name = Annotated[str, typer.Argument(metavar="RELEASE", help="Release name, or its beginning, such as r0001.")]


@releases.callback(epilog="Example: nightshift releases --json")
@readable_errors
def listing(context: typer.Context, as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """List releases, newest first, and mark the serving release."""
    if context.invoked_subcommand is not None:
        return
    from tasks.core.release.pins import pinned_releases
    from tasks.core.release.publish import list_releases, serving

    loaded = load(settings)
    current, _ = serving(loaded)
    known, pins = list_releases(loaded), pinned_releases(loaded.home)
    if as_json:
        rows = [{**_row(release), "pinned": release.release in pins, "pruned": release.pruned} for release in known]
        print_json({"serving": current.release if current else None, "releases": rows})
        return
    from flows.terminal import print_releases

    print_releases(current, known, pins)


@releases.command(epilog="Example: nightshift releases pin r0001")
@readable_errors
def pin(release: Name, settings: SettingsFile = None) -> None:
    """Keep a release: retention never prunes it."""
    from tasks.core.release.publish import pin as pin_release

    pinned = pin_release(load(settings), release)
    typer.echo(f"release {pinned.release} is pinned until `nightshift releases unpin {pinned.release}`")


@releases.command(epilog="Example: nightshift releases unpin r0001")
@readable_errors
def unpin(release: Name, settings: SettingsFile = None) -> None:
    """Unpin a release: retention may prune it again."""
    from tasks.core.release.publish import unpin as unpin_release

    typer.echo(f"release {unpin_release(load(settings).home, release)} is no longer pinned")


@releases.command(epilog="Example: nightshift releases repair")
@readable_errors
def repair(settings: SettingsFile = None) -> None:
    """Verify the serving release and rebuild damaged parts from the stored vectors. Embeds nothing."""
    from tasks.core.release.repair import repair as rebuild

    release, _ = rebuild(load(settings))
    if release is None:
        fail("no release serves. Run `nightshift rollback` to serve an older release, or `nightshift run` to make one")
    typer.echo(f"release {release.release} serves and is intact")


def _row(release: Release) -> dict[str, object]:
    names = ("release", "created", "collection", "snapshot", "metrics", "bm25", "base", "previous", "dense", "ranking")
    fields = release.model_dump(mode="json", include=set(names))
    return {**{name: fields[name] for name in names}, "encoder": release.fingerprint, "passages": release.rows}
