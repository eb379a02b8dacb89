"""Settings of training pairs without labels: `[synthetic]` and `[generate]` in the settings file."""

from __future__ import annotations

from pydantic import Field, SecretStr, model_validator

from tasks.core.base.section import Section
from tasks.core.base.setting_paths import OptionalPath


class SyntheticSettings(Section):
    """Training pairs that are made from passages, for collections without labeled queries."""

    structure: bool = Field(
        False,
        description="make training pairs from the structure of passages: titles, headings, questions, first sentences",
    )
    max_passages: int = Field(
        5_000, ge=10, description="maximum number of passages to make pairs from, drawn by the hash of their text"
    )
    top: int = Field(
        10,
        ge=1,
        description="keep a pair only if BM25 or the base model ranks the passage without the query among this number "
        "of best passages for the query",
    )
    held_out: float = Field(
        0.05,
        gt=0,
        lt=1,
        description='fraction of these passages whose pairs are the split "synthetic", never used for training',
    )


class GenerateSettings(Section):
    """Queries that a language model writes for passages, over an API with OpenAI's chat completions."""

    url: str = Field(
        "",
        pattern=r"^(https?://[^\s@]+)?$",
        description="base address of the API, such as http://127.0.0.1:8000/v1; empty: generate nothing",
    )
    key: SecretStr = Field(
        SecretStr(""), description="API key; set it as NIGHTSHIFT_GENERATE__KEY rather than in a file; empty: none"
    )
    model: str = Field("", description="name of the model, as the API knows it")
    per_passage: int = Field(2, ge=1, le=20, description="queries to generate for each passage")
    budget: int = Field(
        0, ge=0, description="maximum number of requests that this home ever sends to this API, retries included"
    )
    prompt: OptionalPath = Field(
        None,
        description="text file with the prompt; $title, $text, and $count are replaced; not set: the built-in prompt",
    )
    judge_prompt: OptionalPath = Field(
        None,
        description="text file with the prompt of nightshift label; $query, $title, and $text are replaced; not set: "
        "the built-in prompt",
    )
    concurrency: int = Field(4, ge=1, le=64, description="requests at the same time")
    timeout: float = Field(60, gt=0, description="seconds to wait for an answer")
    tries: int = Field(4, ge=1, le=10, description="requests for a passage before it is skipped until the next night")
    max_tokens: int = Field(200, ge=16, description="maximum tokens of an answer")

    @model_validator(mode="after")
    def _an_endpoint_is_complete(self) -> GenerateSettings:
        missing = [name for name in ("model", "budget") if self.url and not getattr(self, name)]
        if missing:
            raise ValueError(f"[generate] url needs {' and '.join(missing)}: the model, and the most requests to send")
        return self
