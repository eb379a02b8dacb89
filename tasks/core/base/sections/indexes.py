"""Index types of a collection, with their build and search parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

EVERYWHERE = ("FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW")  # milvus-lite accepts other types, but fails at the next load
BUILD: dict[str, tuple[str, ...]] = {
    "FLAT": (),
    "IVF_FLAT": ("nlist",),
    "IVF_SQ8": ("nlist",),
    "HNSW": ("M", "efConstruction"),
    "SCANN": ("nlist",),
    "IVF_PQ": ("nlist", "m", "nbits"),
    "DISKANN": (),
    "GPU_CAGRA": ("intermediate_graph_degree", "graph_degree"),
    "GPU_IVF_FLAT": ("nlist",),
    "GPU_IVF_PQ": ("nlist", "m", "nbits"),
    "GPU_BRUTE_FORCE": (),
}
SEARCH: dict[str, tuple[str, ...]] = {
    "FLAT": (),
    "IVF_FLAT": ("nprobe",),
    "IVF_SQ8": ("nprobe",),
    "HNSW": ("ef",),
    "SCANN": ("nprobe", "reorder_k"),
    "IVF_PQ": ("nprobe",),
    "DISKANN": ("search_list",),
    "GPU_CAGRA": ("itopk_size", "search_width"),
    "GPU_IVF_FLAT": ("nprobe",),
    "GPU_IVF_PQ": ("nprobe",),
    "GPU_BRUTE_FORCE": (),
}


def build_params(index: str, rows: int, dimension: int, given: Mapping[str, int]) -> dict[str, int]:
    """Return the build parameters of `index`: those in `given`, and defaults that fit the collection for the rest.

    Args:
        index: Index type, a key of `BUILD`.
        rows: Number of vectors in the collection.
        dimension: Components per vector.
        given: Parameters from the settings, by name.
    """
    defaults = {
        "nlist": _lists(rows),
        "M": 16,
        "efConstruction": 200,
        "m": _parts(dimension),
        "nbits": 8,
        "intermediate_graph_degree": 64,
        "graph_degree": 32,
    }
    return {name: given.get(name, defaults[name]) for name in BUILD[index]}


def search_params(index: str, k: int, built: Mapping[str, int], given: Mapping[str, int]) -> dict[str, int]:
    """Return the parameters to search `index` for the best `k`, limited to values valid for `k` and for the index.

    Args:
        index: Index type, a key of `SEARCH`.
        k: Number of results.
        built: Parameters that the index was built with.
        given: Parameters from the settings, by name.
    """
    lists = built.get("nlist", 1)
    defaults = {
        "nprobe": max(16, lists // 4),
        "ef": 128,
        "reorder_k": 4 * k,
        "search_list": 100,
        "itopk_size": 128,
        "search_width": 4,
    }
    bounds = {
        "nprobe": (1, lists),
        "ef": (2 * k, None),
        "reorder_k": (k, None),
        "search_list": (k, None),
        "itopk_size": (k, None),
        "search_width": (1, None),
    }
    chosen = {}
    for name in SEARCH[index]:
        least, most = bounds[name]
        value = max(given.get(name, defaults[name]), least or 1)
        chosen[name] = value if most is None else min(value, most)
    return chosen


def _lists(rows: int) -> int:
    """Return the number of inverted lists: about √rows, with at least 39 rows per list, as faiss requires."""
    return max(1, min(math.isqrt(rows), rows // 39))


def _parts(dimension: int) -> int:
    """Return the number of subvectors for product quantization: dimension / 2, or the next smaller divisor."""
    return next(parts for parts in range(max(1, dimension // 2), 0, -1) if dimension % parts == 0)
