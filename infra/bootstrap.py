"""Create the work pool, limits, deployments, and alarms on a Prefect server. Safe to run again.

`python -m infra.bootstrap` uses the server of PREFECT_API_URL. NIGHTSHIFT_ALERT_URL names a webhook that receives
alerts about failures, crashes, rejections, and missing nights.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

import typer  # isort: skip
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from flows.runs import PUBLISHING
from infra.alarms import alarms, alert_block, usual_night

POOL = "nightshift"
DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")


def main(
    deployments: Annotated[Path, typer.Option(help="File like infra/prefect.yaml.")] = DEPLOYMENTS,
) -> None:
    """Create work pool, limits, deployments, and alarms on the Prefect server of PREFECT_API_URL."""
    with get_client(sync_client=True) as client:
        make_pool(client)
        client.upsert_global_concurrency_limit_by_name(PUBLISHING, 1)
        typer.echo(f"limit {PUBLISHING}: one run at a time publishes")
        deploy(deployments)
        make_alarms(client, os.environ.get("NIGHTSHIFT_ALERT_URL", ""))


def make_pool(client: SyncPrefectClient) -> None:
    """Create the work pool, whose runs are processes on the worker's host. An existing pool is not changed."""
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Nights and maintenance"))
        typer.echo(f"work pool {POOL}: created")
    except ObjectAlreadyExists:
        typer.echo(f"work pool {POOL}: exists")


def deploy(file: Path) -> None:
    """Deploy all deployments of `file`. On an error, exit with the message of Prefect."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (no user input)
    if done.returncode != 0:
        typer.secho(f"error: {file} could not be deployed:\n{done.stdout}{done.stderr}", fg="red", err=True)
        raise typer.Exit(1)
    typer.echo(f"deployments of {file.name}: created or updated")


def make_alarms(client: SyncPrefectClient, url: str) -> None:
    """Create or update each alarm by its name. Without the address of a webhook, create none."""
    if not url:
        typer.echo("no alarms: set NIGHTSHIFT_ALERT_URL to a webhook, and run this again to receive alerts")
        return
    block, usual = alert_block(url), usual_night(client)
    for alarm in alarms(block, usual):
        existing = client.read_automations_by_name(alarm.name)
        if existing:
            client.update_automation(existing[0].id, alarm)
        else:
            client.create_automation(alarm)
        typer.echo(f"alarm {alarm.name}: {'updated' if existing else 'created'}")


if __name__ == "__main__":
    typer.run(main)
