"""Files of numbers as arrays that are read when they are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike


def map_array(file: Path, kind: DTypeLike) -> np.ndarray:
    """Memory-map a file of numbers; an empty file, which cannot be mapped, is an empty array."""
    return np.memmap(file, kind, "r") if file.stat().st_size else np.zeros(0, kind)
