"""Settings of releases: location of collections and ledger, index type, and retention."""

from __future__ import annotations

from typing import Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from tasks.core.base.section import Section
from tasks.core.base.sections.indexes import BUILD, EVERYWHERE, SEARCH
from tasks.core.base.setting_paths import LocationText

Index = Literal[
    "FLAT",
    "IVF_FLAT",
    "IVF_SQ8",
    "HNSW",
    "SCANN",
    "IVF_PQ",
    "DISKANN",
    "GPU_CAGRA",
    "GPU_IVF_FLAT",
    "GPU_IVF_PQ",
    "GPU_BRUTE_FORCE",
]


class ReleaseSettings(Section):
    """Ledger of releases, and behavior when the serving release is damaged."""

    ledger: str = Field(
        "",
        description="ledger of releases; for hosts that share a home: a PostgreSQL database, such as "
        "postgresql://nightshift@db/nightshift (needs the extra postgres); empty: an SQLite file in home, for one host",
    )
    password: SecretStr = Field(
        SecretStr(""), description="password for PostgreSQL; set it as NIGHTSHIFT_RELEASE__PASSWORD"
    )
    check_minutes: float = Field(
        10,
        ge=0,
        description="minutes between checks by a searcher of the files it searches (on a server: of searches for a few "
        "known passages); 0: check only when it opens them",
    )
    serve_previous_when_damaged: bool = Field(
        False, description="search the previous release while the serving release is damaged"
    )

    @field_validator("ledger")
    @classmethod
    def _no_secret_in_the_address(cls, ledger: str) -> str:
        parts = urlsplit(ledger)
        if ledger and parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("expected an address such as postgresql://nightshift@db/nightshift; omit it to use SQLite")
        if parts.password or "password" in parse_qs(parts.query):
            raise ValueError("contains a password, and addresses are logged; set NIGHTSHIFT_RELEASE__PASSWORD instead")
        return ledger


class MilvusSettings(Section):
    """Location, index, checks, and retention of collections in Milvus."""

    uri: str = Field(
        "", description="address of a Milvus server, such as http://127.0.0.1:19530; empty: milvus-lite in home"
    )
    token: SecretStr = Field(
        SecretStr(""),
        description="credentials for the server, user:password or an API key; set them as NIGHTSHIFT_MILVUS__TOKEN",
    )
    alias: str = Field(
        "nightshift",
        pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$",
        description="server only: name of the alias and prefix of its collections; must differ for each home",
    )
    index: Index = Field(
        "FLAT", description="index type; SCANN, IVF_PQ, and DISKANN need a server, GPU_… a server with GPUs"
    )
    index_params: dict[str, int] = Field({}, description="build parameters of the index, such as { M = 32 }")
    search_params: dict[str, int] = Field({}, description="search parameters of the index, such as { ef = 256 }")
    batch_rows: int = Field(1000, ge=1, description="rows per insert")
    bulk: LocationText = Field(
        "",
        description="server only, for many millions of passages: folder for bulk import that the server can also read, "
        "in its own bucket (s3://bucket/folder?endpoint_override=http://minio:9000, with credentials from the standard "
        "AWS sources) or, if the server stores data on its disk, on this host; empty: insert rows",
    )
    replicas: int = Field(
        1, ge=1, description="server only: copies of the serving collection in memory, each on its own query node"
    )
    min_recall: float = Field(0.95, ge=0, le=1, description="minimum recall@10 of the index compared with exact search")
    samples: int = Field(
        64, ge=1, description="sampled passages and queries that verify a new collection before it serves"
    )
    max_shrink: float = Field(
        0.5, ge=0, le=1, description="maximum fraction of the serving release's passages that a new release may lose"
    )
    keep: int = Field(3, ge=2, description="releases to keep loadable, including the serving release")
    grace_minutes: float = Field(
        60, ge=0, description="minutes to keep a release after it stops serving, regardless of keep"
    )
    notice_seconds: float = Field(
        5, ge=0, description="seconds between checks for a new serving release; 0: only on request"
    )
    query_seconds: float = Field(30, gt=0, description="maximum seconds per search; a longer search fails")

    @field_validator("uri")
    @classmethod
    def _no_secret_in_the_address(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if uri and (parts.scheme not in ("http", "https", "tcp", "unix") or not (parts.netloc or parts.path)):
            raise ValueError("expected an address such as http://127.0.0.1:19530; omit it to use milvus-lite in home")
        if parts.password:
            raise ValueError("contains a password, and addresses are logged; set NIGHTSHIFT_MILVUS__TOKEN instead")
        return uri

    @field_validator("bulk")
    @classmethod
    def _no_secret_in_the_folder(cls, bulk: str) -> str:
        if urlsplit(bulk).password:
            raise ValueError("contains a password, and addresses are logged; set credentials in the environment")
        return bulk

    @model_validator(mode="after")
    def _server_features_have_a_server(self) -> MilvusSettings:
        if not self.uri and (self.bulk or self.replicas > 1):
            raise ValueError("bulk and replicas need a Milvus server: set uri, or omit them")
        return self

    @model_validator(mode="after")
    def _index_is_available(self) -> MilvusSettings:
        if not self.uri and self.index not in EVERYWHERE:
            raise ValueError(
                f"index {self.index} needs a Milvus server: set uri; milvus-lite supports {', '.join(EVERYWHERE)}"
            )
        for name, given, known in (
            ("index_params", self.index_params, BUILD[self.index]),
            ("search_params", self.search_params, SEARCH[self.index]),
        ):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(
                    f"{name}: {', '.join(unknown)} is no parameter of {self.index}; it has {', '.join(known) or 'none'}"
                )
        return self
