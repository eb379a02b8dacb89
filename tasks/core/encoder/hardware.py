"""Which numeric paths this machine has: its instruction sets, its GPU, the backends that are installed."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from tasks.core.base.errors import Mismatch
from tasks.core.base.sections.embedding import INT8, Precision

FASTEST_FIRST: tuple[Precision, ...] = (*INT8, "openvino-bf16", "bf16", "openvino-fp32", "fp32")
INSTALL = 'pip install "nightshift[openvino]"'


def has_bf16() -> bool:
    """True where bfloat16 matrix products run in hardware, so that they are faster than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has("avx512_bf16", "amx_bf16")


def paths_here() -> list[Precision]:
    """The numeric paths that are worth taking on this machine, fastest first; the last is always "fp32".

    The order was measured on CPUs. With a GPU, torch on it is faster than anything on the CPU beside it.
    """
    return [path for path in FASTEST_FIRST if _pays(path)]


def missing_for(path: Precision) -> str:
    """What this machine lacks to compute as `path` does, as a clause for a sentence; empty when it lacks nothing.

    Torch computes bf16 anywhere, if slowly. OpenVINO does not: where the processor has no bf16 it takes float32
    without a word, and without VNNI its sums of 8-bit products overflow, so that vectors would be others.
    """
    if path.startswith("openvino") and find_spec("openvino") is None:
        return f"openvino is not installed here ({INSTALL})"
    if path.startswith("openvino") and path.endswith("bf16") and not _cpu_has("avx512_bf16", "amx_bf16"):
        return "this processor has no bf16 instructions (AVX512-BF16 or AMX)"
    if path in INT8 and not _cpu_has("avx512_vnni", "avx_vnni", "amx_int8"):
        return "this processor has no 8-bit dot products (VNNI or AMX)"
    return ""


def check_supported(path: Precision) -> None:
    """Raise Mismatch when this machine cannot compute as `path` does."""
    if what := missing_for(path):
        raise Mismatch(
            f"the encoder's vectors are made by the numeric path {path}, and {what}. Encode on a machine that has it, "
            'or make the encoder anew with [embedding] precision = "fp32".'
        )


def _pays(path: Precision) -> bool:
    if path == "fp32":
        return True
    if path == "bf16":
        return has_bf16()
    if path in INT8 and find_spec("nncf") is None:
        return False
    return not torch.cuda.is_available() and not missing_for(path)


def _cpu_has(*names: str) -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in names)
