"""Where releases and their ledger lie, by which index they are searched, and how long they are kept."""

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
    """Where it is written down which release serves, and what happens when that is damaged."""

    ledger: str = Field(
        "",
        description="a PostgreSQL database, such as postgresql://nightshift@db/nightshift, where several hosts share "
        "a home (needs the postgres extra); empty: an SQLite file below home, for one host",
    )
    password: SecretStr = Field(
        SecretStr(""), description="what PostgreSQL asks for; give it as NIGHTSHIFT_RELEASE__PASSWORD"
    )
    check_minutes: float = Field(
        10,
        ge=0,
        description="how often a searcher verifies the files that it answers from (on a server: searches for a few "
        "known passages); 0: only when it opens them",
    )
    serve_previous_when_damaged: bool = Field(
        False, description="answer from the release that served before while the serving one is damaged"
    )

    @field_validator("ledger")
    @classmethod
    def _no_secret_in_the_address(cls, ledger: str) -> str:
        parts = urlsplit(ledger)
        if ledger and parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("an address such as postgresql://nightshift@db/nightshift; leave it out for SQLite")
        if parts.password or "password" in parse_qs(parts.query):
            raise ValueError("it holds a password, and addresses are logged; give NIGHTSHIFT_RELEASE__PASSWORD instead")
        return ledger


class MilvusSettings(Section):
    """Where releases lie, the index that serves, and what is kept."""

    uri: str = Field("", description="a Milvus server, such as http://127.0.0.1:19530; empty: milvus-lite below home")
    token: SecretStr = Field(
        SecretStr(""),
        description="what the server asks for, user:password or a key; give it as NIGHTSHIFT_MILVUS__TOKEN",
    )
    alias: str = Field(
        "nightshift",
        pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$",
        description="on a server: the pointer, and what the names of its collections begin with; one for each home",
    )
    index: Index = Field(
        "FLAT", description="index type of the collection; SCANN, IVF_PQ and DISKANN need a server, GPU_… one with GPUs"
    )
    index_params: dict[str, int] = Field({}, description="what the index is built with, such as { M = 32 }")
    search_params: dict[str, int] = Field({}, description="what it is searched with, such as { ef = 256 }")
    batch_rows: int = Field(1000, ge=1, description="rows in one insert")
    bulk: LocationText = Field(
        "",
        description="on a server, for many millions of passages: a folder that it reads as well, in its own bucket "
        "(s3://bucket/folder?endpoint_override=http://minio:9000, credentials as AWS tools find them) or, where it "
        "keeps data on its disk, on this host; rows go there as files and in by bulk import. Empty: by inserts",
    )
    replicas: int = Field(
        1, ge=1, description="on a server: copies of the serving collection in the memory of as many query nodes"
    )
    min_recall: float = Field(0.95, ge=0, le=1, description="recall@10 against exact search that it must reach")
    samples: int = Field(64, ge=1, description="passages that must find themselves before the pointer moves")
    max_shrink: float = Field(0.5, ge=0, le=1, description="share of the serving release's passages a new one may lack")
    keep: int = Field(3, ge=2, description="releases kept loadable, the serving one included")
    grace_minutes: float = Field(
        60, ge=0, description="a release that served is kept so long after it, whatever keep says"
    )
    notice_seconds: float = Field(5, ge=0, description="how often a searcher looks at the pointer; 0: when asked to")
    query_seconds: float = Field(30, gt=0, description="a search that takes longer is an error")

    @field_validator("uri")
    @classmethod
    def _no_secret_in_the_address(cls, uri: str) -> str:
        parts = urlsplit(uri)
        if uri and (parts.scheme not in ("http", "https", "tcp", "unix") or not (parts.netloc or parts.path)):
            raise ValueError("an address such as http://127.0.0.1:19530; leave it out for milvus-lite below home")
        if parts.password:
            raise ValueError("it holds a password, and addresses are logged; give NIGHTSHIFT_MILVUS__TOKEN instead")
        return uri

    @field_validator("bulk")
    @classmethod
    def _no_secret_in_the_folder(cls, bulk: str) -> str:
        if urlsplit(bulk).password:
            raise ValueError("it holds a password, and addresses are logged; credentials come from the environment")
        return bulk

    @model_validator(mode="after")
    def _what_only_a_server_has(self) -> MilvusSettings:
        if not self.uri and (self.bulk or self.replicas > 1):
            raise ValueError("bulk and replicas are for a Milvus server: set uri, or leave them out")
        return self

    @model_validator(mode="after")
    def _the_index_can_be_built_and_searched(self) -> MilvusSettings:
        if not self.uri and self.index not in EVERYWHERE:
            raise ValueError(f"index {self.index} needs a Milvus server: uri; milvus-lite has {', '.join(EVERYWHERE)}")
        for name, given, known in (
            ("index_params", self.index_params, BUILD[self.index]),
            ("search_params", self.search_params, SEARCH[self.index]),
        ):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(
                    f"{name}: {', '.join(unknown)} is not for {self.index}; it has {', '.join(known) or 'none'}"
                )
        return self
