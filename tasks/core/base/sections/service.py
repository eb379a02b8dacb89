"""How the search service behaves; where it listens is said on the command line."""

from __future__ import annotations

from pydantic import Field, SecretStr

from tasks.core.base.section import Section


class ServiceSettings(Section):
    """`nightshift search --serve`."""

    token: SecretStr = Field(
        SecretStr(""),
        description="what a request must bring as `Authorization: Bearer …`; give it as NIGHTSHIFT_SERVICE__TOKEN; "
        "empty: nothing is asked for, and only this machine can reach the service",
    )
    url: str = Field(
        "",
        pattern=r"^(https?://\S+)?$",
        description="address at which people reach the service, such as https://search.example.org; the artifacts of a "
        "night then link its report there; empty: they name its file",
    )
    concurrency: int = Field(4, ge=1, description="searches under way at once; four times as many wait, others get 503")
    seconds: float = Field(30, gt=0, description="a request that waits and searches longer gets 504")
    shadow_release: str = Field(
        "", description="a release that is asked too, beside the serving one; what was asked goes to home/shadow"
    )
    shadow_share: float = Field(0.1, ge=0, le=1, description="share of the requests that go to shadow_release too")
