"""Settings of the search service. Its host and port are command line options."""

from __future__ import annotations

from pydantic import Field, SecretStr

from tasks.core.base.section import Section


class ServiceSettings(Section):
    """Settings of `nightshift serve`."""

    token: SecretStr = Field(
        SecretStr(""),
        description="token that requests must send as `Authorization: Bearer …`; set it as NIGHTSHIFT_SERVICE__TOKEN; "
        "empty: no token is required, and only this machine can reach the service",
    )
    metrics_token: SecretStr = Field(
        SecretStr(""),
        description="second token, which opens only `GET /metrics`, for Prometheus; set it as "
        "NIGHTSHIFT_SERVICE__METRICS_TOKEN; empty: /metrics needs the same token as searches",
    )
    url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="public address of the service, such as https://search.example.org, for links from a night's "
        "artifacts to its report; empty: artifacts show the path of the report",
    )
    concurrency: int = Field(
        4, ge=1, description="concurrent searches; up to four times as many wait, further requests get 503"
    )
    seconds: float = Field(30, gt=0, description="maximum seconds to wait and search; longer requests get 504")
    shadow_release: str = Field(
        "",
        description="release to search in addition to the serving release; shadowed requests are logged in home/shadow",
    )
    shadow_share: float = Field(0.1, ge=0, le=1, description="fraction of requests also sent to shadow_release")
