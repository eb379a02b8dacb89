"""Cluster manifests and compose files follow our security rules and name existing settings. Nothing is started."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.base.settings_file import load_settings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS = [
    manifest
    for file in sorted((INFRA / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
]
SECRET = re.compile(r"PASSWORD|TOKEN|AUTH_STRING|SECRET|ACCESS_KEY")
ONCE = {"volumes"}  # sets the owner of the volumes and exits: only this service runs as root
SILENT = {"services", "bootstrap", "volumes"}  # no health check: these listen on no port


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the specification of every pod in the manifests."""
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]
        if manifest["kind"] == "RayCluster":
            groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
            for group in groups:
                yield f"ray-{group.get('groupName', 'head')}", group["template"]["spec"]


PODS = dict(pods())


def images() -> Iterator[str]:
    service_images = (service["image"] for service in SERVICES.values())
    yield from (image for image in service_images if not image.startswith("${"))  # the user names these
    yield from (container["image"] for pod in PODS.values() for container in pod["containers"])
    yield from (manifest["spec"]["components"]["image"] for manifest in MANIFESTS if manifest["kind"] == "Milvus")


def settings_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in environment.items():
        if name.startswith("NIGHTSHIFT_") and name != "NIGHTSHIFT_ALERT_URL":
            monkeypatch.setenv(name, re.sub(r"\$\{\w+:\?[^}]*\}", "hidden", value))
    return load_settings()


@pytest.mark.parametrize("image", sorted(set(images())))
def test_images_are_named_by_version(image: str) -> None:
    name, _, tag = image.rpartition(":")
    assert name
    assert re.search(r"\d+\.\d+|RELEASE\.\d{4}", tag)
    if name == "nightshift":
        assert tag.removesuffix("-cuda") == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_few_rights_and_resource_limits(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert (service["user"].split(":")[0] == "0") == (name in ONCE)
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    check = service["healthcheck"]
    assert check.get("disable", False) == (name in SILENT)
    assert name in SILENT or {"test", "interval", "timeout", "retries"} <= check.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_of_services_come_from_the_environment(name: str) -> None:
    offered = {line.split("=")[0] for line in (INFRA / "compose.env").read_text().splitlines() if "=" in line}
    for key, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(key):
            assert (variable := re.search(r"\$\{(\w+):\?", value)), f"{key} has a literal value or can be empty"
            assert variable[1] in offered
    assert not re.findall(r"^\w+=\S", (INFRA / "compose.env").read_text(), re.MULTILINE)


def test_services_wait_only_for_existing_services() -> None:
    for service in SERVICES.values():
        for dependency, options in service.get("depends_on", {}).items():
            completes = options["condition"] == "service_completed_successfully"
            assert completes == (dependency in ("bootstrap", "volumes"))
        volumes = {volume.split(":")[0] for volume in service.get("volumes", ())}
        assert volumes <= COMPOSE["volumes"].keys()
        assert set(service.get("networks", ())) <= COMPOSE["networks"].keys()


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_few_rights_resource_limits_and_no_secret(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            **({"readOnlyRootFilesystem": True} if name == "worker" else {}),
        }
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        for variable in container.get("env", ()):
            assert not SECRET.search(variable["name"]) or "secretKeyRef" in variable["valueFrom"]
        assert {"name": "home", "mountPath": "/var/lib/nightshift"} in container["volumeMounts"]


def test_settings_of_the_worker_and_of_the_cluster_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    (config,) = (manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap")
    assert not [name for name in config if SECRET.search(name)]
    with monkeypatch.context() as patch:
        settings = settings_of(config, patch)
        assert settings.compute.engine == "ray"
        assert settings.home == Path("/var/lib/nightshift")
    with monkeypatch.context() as patch:
        settings = settings_of(SERVICES["worker"]["environment"], patch)
        assert settings.milvus.token.get_secret_value() == "root:hidden"
        assert settings.compute.engine == "local"


def test_a_shard_fits_a_ray_worker() -> None:
    (config,) = (manifest["data"] for manifest in MANIFESTS if manifest["kind"] == "ConfigMap")
    (container,) = PODS["ray-cpu"]["containers"]
    assert float(config["NIGHTSHIFT_COMPUTE__CPUS"]) <= float(container["resources"]["limits"]["cpu"])
    assert float(config["NIGHTSHIFT_COMPUTE__MEMORY_GB"]) < float(container["resources"]["limits"]["memory"][:-2])


def test_the_ray_version_matches_the_lock() -> None:
    (version,) = re.findall(r"^ray==(.*)$", (INFRA / "constraints.txt").read_text(), re.MULTILINE)
    assert [manifest["spec"]["rayVersion"] for manifest in MANIFESTS if manifest["kind"] == "RayCluster"] == [version]


def test_the_image_is_built_in_two_stages_and_runs_unprivileged() -> None:
    lines = (INFRA / "Dockerfile").read_text().splitlines()
    assert len([line for line in lines if line.startswith("FROM ")]) == 2
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    (python,) = (line for line in lines if line.startswith("ARG PYTHON="))
    assert re.search(r"=3\.\d+\.\d+-slim", python)


def test_the_settings_of_a_cluster_are_usable() -> None:
    settings = load_settings(INFRA / "settings" / "cluster.toml")
    assert settings.compute.engine == "ray"
    assert settings.store.url.startswith("s3://")
