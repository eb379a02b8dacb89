"""Settings of embedding: `[embedding]` in the settings file, and the names of the numeric paths."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tasks.core.base.section import Section

# Runtime and number type that compute vectors. Names without a prefix are for torch.
Precision = Literal["fp32", "bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "openvino-int8-bf16"]
# int8 matrix products; all other operations in bf16 or float32.
INT8: tuple[Precision, ...] = ("openvino-int8-bf16", "openvino-int8")
OPENVINO: tuple[Precision, ...] = (*INT8, "openvino-bf16", "openvino-fp32")
BF16: tuple[Precision, ...] = ("bf16", "openvino-bf16", "openvino-int8-bf16")


class EmbeddingSettings(Section):
    """Embedding of passages in shards."""

    shards: int = Field(
        4, ge=1, description="number of passage shards; each is one file and can be embedded separately"
    )
    vectors: Literal["float32", "float16"] = Field(
        "float32", description="number type of vectors on disk; float16 takes half the space"
    )
    precision: Literal["auto", "fastest"] | Precision = Field(
        "auto",
        description="numeric path, part of the fingerprint; auto: the fastest fp32 or bf16 path of this machine that "
        "meets min_cosine and max_ndcg_change; fastest: try int8 paths first; or the name of a path",
    )
    min_cosine: float = Field(0.999, gt=0, le=1, description="minimum cosine to fp32 vectors of an fp32 or bf16 path")
    max_ndcg_change: float = Field(
        0.002,
        ge=0,
        description="maximum loss of an fp32 or bf16 path in nDCG@10 on dev queries; with a gain, a loss within "
        "chance, or fewer than 50 dev queries, only the cosine decides",
    )
    int8_min_cosine: float = Field(
        0.98, gt=0, le=1, description="minimum cosine to fp32 vectors of an int8 path, for 95 % of the texts"
    )
    int8_max_ndcg_change: float = Field(0.005, ge=0, description="like max_ndcg_change, for an int8 path")

    def numeric(self) -> dict[str, Any]:
        """Return the settings that determine an encoder's numeric path."""
        return self.model_dump(exclude={"shards", "vectors"})
