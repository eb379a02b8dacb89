"""Files of a lexical index, and Lucene's encoding of passage lengths in a byte."""

from __future__ import annotations

import numpy as np

TERMS, DOCUMENTS, FREQUENCIES, NORMS = "terms.parquet", "documents.i32", "frequencies.u16", "norms.u8"


def encode_lengths(lengths: np.ndarray) -> np.ndarray:
    """Encode passage lengths in a byte each as Lucene's `SmallFloat.intToByte4`: uint8 (n,)."""
    return (np.searchsorted(decoded_lengths(), lengths, "right") - 1).astype(np.uint8)


def decoded_lengths() -> np.ndarray:
    """Return the length that each of the 256 bytes stands for, as Lucene's `SmallFloat.byte4ToInt`: int64 (256,)."""
    free = 24  # 255 - longToInt4(2³¹ - 1): small lengths are exact
    codes = np.arange(256 - free)
    shift = (codes >> 3) - 1
    values = np.where(shift < 0, codes & 7, ((codes & 7) | 8) << np.maximum(shift, 0))
    return np.concatenate([np.arange(free), free + values])
