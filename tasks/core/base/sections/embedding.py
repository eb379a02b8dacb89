"""The dials of embedding: `[embedding]` in the settings file, and the names of the numeric paths."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tasks.core.base.section import Section

# Which program computes vectors, and in which numbers: torch where nothing else is said.
Precision = Literal["fp32", "bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "openvino-int8-bf16"]
# Matrix products in int8; what is around them in float32, or in bf16.
INT8: tuple[Precision, ...] = ("openvino-int8-bf16", "openvino-int8")


class EmbeddingSettings(Section):
    """Passages into vectors, in shards."""

    shards: int = Field(4, ge=1, description="files the passages are divided into; each can be made by itself")
    vectors: Literal["float32", "float16"] = Field(
        "float32", description="numbers of the vectors on disk; float16 takes half the space"
    )
    precision: Literal["auto", "fastest"] | Precision = Field(
        "auto",
        description="numeric path, part of the fingerprint; auto: the fastest in fp32 or bf16 that the machine has and "
        "that is faithful; fastest: int8 is tried before them; or a path by name",
    )
    min_cosine: float = Field(0.999, gt=0, le=1, description="lowest cosine to fp32 that a path in fp32 or bf16 keeps")
    max_ndcg_change: float = Field(
        0.002,
        ge=0,
        description="nDCG@10 on dev queries that a path in fp32 or bf16 may lose; a gain, a loss within chance, and "
        "fewer than 50 dev queries leave the choice to the cosine",
    )
    int8_min_cosine: float = Field(
        0.98, gt=0, le=1, description="cosine to fp32 that 95 % of the texts keep under an int8 path"
    )
    int8_max_ndcg_change: float = Field(0.005, ge=0, description="as max_ndcg_change, for an int8 path")

    def numeric(self) -> dict[str, Any]:
        """The dials that decide which numeric path an encoder gets."""
        return self.model_dump(exclude={"shards", "vectors"})
