"""Which numeric paths this machine supports, by its instruction sets, its GPU, and the installed backends."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from tasks.core.base.errors import Mismatch
from tasks.core.base.sections.embedding import BF16, INT8, OPENVINO, Precision

FASTEST_FIRST: tuple[Precision, ...] = (*INT8, "openvino-bf16", "bf16", "openvino-fp32", "fp32")
INSTALL = 'pip install "nightshift[openvino]"'


def has_bf16() -> bool:
    """Return True if the hardware computes bfloat16 matrix products, which is then faster than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has("avx512_bf16", "amx_bf16")


def paths_here() -> list[Precision]:
    """Return the numeric paths that are worth using on this machine, fastest first; the last is always "fp32".

    The order was measured on CPUs. On a machine with a GPU, torch on the GPU is faster than any CPU path.
    """
    return [path for path in FASTEST_FIRST if _pays(path)]


def missing_for(path: Precision) -> str:
    """Return what this machine lacks for the numeric path, as a clause for an error message; empty if supported.

    Torch computes bf16 on any machine, if slowly. OpenVINO silently falls back to float32 on a processor without bf16.
    Without VNNI, its sums of 8-bit products overflow and change the vectors.
    """
    if path in OPENVINO and find_spec("openvino") is None:
        return f"openvino is not installed here ({INSTALL})"
    if path in OPENVINO and path in BF16 and not _cpu_has("avx512_bf16", "amx_bf16"):
        return "this processor has no bf16 instructions (AVX512-BF16 or AMX)"
    if path in INT8 and not _cpu_has("avx512_vnni", "avx_vnni", "amx_int8"):
        return "this processor has no 8-bit dot products (VNNI or AMX)"
    return ""


def check_supported(path: Precision) -> None:
    """Raise Mismatch when this machine does not support the numeric path."""
    if missing := missing_for(path):
        raise Mismatch(
            f"the encoder uses the numeric path {path}, and {missing}. Encode on a machine that supports it, "
            'or rebuild the encoder with [embedding] precision = "fp32".'
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
