"""The deployments of several collections on one Prefect server, and removal of those that no longer run there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse

from flows.collections import Collection, collection_of
from flows.schedules import TAG


def deployments_of(file: dict[str, Any], collections: Sequence[Collection]) -> dict[str, Any]:
    """Return a deployments file with the deployments of `file` for each collection.

    Names end in the collection's name, tags include its tag, its triggers react to its runs only, and its runs get its
    settings file and home from their environment.
    """
    deployments = [
        _for_collection(deployment, collection) for collection in collections for deployment in file["deployments"]
    ]
    return {**file, "deployments": deployments}


def _for_collection(deployment: dict[str, Any], collection: Collection) -> dict[str, Any]:
    own = copy.deepcopy(deployment)
    own["name"] = f"{own['name']}-{collection.name}"
    own["tags"] = [*own.get("tags", []), collection.tag]
    variables = own.setdefault("work_pool", {}).setdefault("job_variables", {}).setdefault("env", {})
    variables |= {"NIGHTSHIFT_SETTINGS": str(collection.settings_file), "NIGHTSHIFT_HOME": str(collection.home)}
    for trigger in own.get("triggers", []):
        trigger["name"] = f"{trigger['name']} ({collection.name})"
        trigger["match_related"] = tag_resource(collection.tag)
    return own


def tag_resource(tag: str) -> dict[str, str]:
    """Return the labels of a tag among the related resources of an event."""
    return {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{tag}"}


def remove_other_deployments(client: SyncPrefectClient, collections: Sequence[Collection]) -> list[str]:
    """Delete the deployments, with triggers, of collections other than `collections`; return their names.

    Without this, a collection that ran alone before would run twice. Its earlier runs stay in the UI.
    """
    names = {collection.name for collection in collections} or {""}
    query, known = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])), list[DeploymentResponse]()
    while page := client.read_deployments(deployment_filter=query, offset=len(known)):
        known += page
    stale = [deployment for deployment in known if collection_of(deployment.tags) not in names]
    for deployment in stale:
        client.delete_resource_owned_automations(f"prefect.deployment.{deployment.id}")
        client.delete_deployment(deployment.id)
    return [deployment.name for deployment in stale]
