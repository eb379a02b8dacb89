"""Create the work pool, limits, deployments, and alarms on a Prefect server. Safe to run again.

`python -m infra.bootstrap` uses the server of PREFECT_API_URL, with several `--settings` for collections side by side.
NIGHTSHIFT_ALERT_URL names a webhook that receives
alerts about failures, crashes, rejections, and missing nights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

import typer  # isort: skip
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from flows.collections import Collection, read_collections
from flows.runs import CHECKS, NIGHTS, publishing_limit
from infra.alarms import LEAST, alarms, alert_block, usual_night
from infra.side_by_side import deployments_of, remove_other_deployments

POOL = "nightshift"
DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")


def main(
    deployments: Annotated[Path, typer.Option(help="File like infra/prefect.yaml.")] = DEPLOYMENTS,
    settings: Annotated[
        list[Path] | None, typer.Option(help="Settings file of a collection; repeat it for collections side by side.")
    ] = None,
    nights: Annotated[int, typer.Option(min=1, help="Nights, and drift checks, of all collections at once.")] = 1,
    remove_others: Annotated[
        bool, typer.Option("--remove-others", help="Delete deployments and alarms of other collections.")
    ] = False,
) -> None:
    """Create work pool, limits, deployments, and alarms on the Prefect server of PREFECT_API_URL."""
    collections = read_collections(settings) if settings else []
    with get_client(sync_client=True) as client:
        make_pool(client)
        make_limits(client, collections, nights)
        deploy(deployments, collections)
        if remove_others and (removed := remove_other_deployments(client, collections)):
            typer.echo(f"deployments removed: {', '.join(removed)}")
        make_alarms(client, os.environ.get("NIGHTSHIFT_ALERT_URL", ""), collections, remove_others)


def make_limits(client: SyncPrefectClient, collections: Sequence[Collection], nights: int) -> None:
    """Create the limit of each collection and, for several collections, the limits that they share."""
    limits = {publishing_limit(collection.name): 1 for collection in collections} or {publishing_limit(): 1}
    shared = {NIGHTS: nights, CHECKS: nights} if collections else {}
    for name, slots in {**limits, **shared}.items():
        client.upsert_global_concurrency_limit_by_name(name, slots)
    typer.echo(f"limit {', '.join(limits)}: one run at a time publishes")
    if collections:
        typer.echo(f"limit {NIGHTS}, {CHECKS}: {nights} at once over all collections")


def make_pool(client: SyncPrefectClient) -> None:
    """Create the work pool, whose runs are processes on the worker's host. An existing pool is not changed."""
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Nights and maintenance"))
        typer.echo(f"work pool {POOL}: created")
    except ObjectAlreadyExists:
        typer.echo(f"work pool {POOL}: exists")


def deploy(file: Path, collections: Sequence[Collection] = ()) -> None:
    """Deploy all deployments of `file`, for each collection. On an error, exit with the message of Prefect."""
    with TemporaryDirectory() as folder:
        source = file
        if collections:
            source = Path(folder) / file.name
            expanded = deployments_of(yaml.safe_load(file.read_text(encoding="utf-8")), collections)
            source.write_text(yaml.safe_dump(expanded), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(source)]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (no user input)
    if done.returncode != 0:
        typer.secho(f"error: {file} could not be deployed:\n{done.stdout}{done.stderr}", fg="red", err=True)
        raise typer.Exit(1)
    names = "".join(f", for {collection.name}" for collection in collections)
    typer.echo(f"deployments of {file.name}: created or updated{names}")


def make_alarms(
    client: SyncPrefectClient, url: str, collections: Sequence[Collection] = (), remove_others: bool = False
) -> None:
    """Create or update each alarm of each collection by its name. Without the address of a webhook, create none."""
    if not url:
        typer.echo("no alarms: set NIGHTSHIFT_ALERT_URL to a webhook, and run this again to receive alerts")
        return
    block, names = alert_block(url), [collection.name for collection in collections] or [""]
    wanted = [alarm for name in names for alarm in alarms(block, usual_night(client, name), name)]
    for alarm in wanted:
        existing = client.read_automations_by_name(alarm.name)
        if existing:
            client.update_automation(existing[0].id, alarm)
        else:
            client.create_automation(alarm)
        typer.echo(f"alarm {alarm.name}: {'updated' if existing else 'created'}")
    if remove_others:
        titles, kept = {alarm.name for alarm in alarms(block, LEAST)}, {alarm.name for alarm in wanted}
        for automation in client.read_automations():
            if automation.name.partition(" (")[0] in titles and automation.name not in kept:
                client.delete_automation(automation.id)
                typer.echo(f"alarm {automation.name}: removed")


if __name__ == "__main__":
    typer.run(main)
