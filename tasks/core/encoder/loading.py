"""Load an encoder. Importing this module is fast: torch and transformers are imported when the first encoder is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.core.encoder.serving import ServingEncoder


def load_encoder(folder: Path) -> ServingEncoder:
    """Load the encoder in a folder; see `dual_encoder.load_encoder`."""
    from tasks.core.encoder import dual_encoder

    return dual_encoder.load_encoder(folder)
