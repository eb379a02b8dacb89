"""`[training] processes` = 2 over gloo trains the same encoder as a single process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def challenger(home: Path) -> dict[str, Any]:
    """Return the manifest of the trained encoder."""
    encoders = [json.loads(path.read_text()) for path in home.glob("encoders/*/manifest.json")]
    (trained,) = (encoder for encoder in encoders if encoder["steps"] > 0)
    return trained


def test_training_in_two_processes_matches_training_in_a_single_process(
    nightshift: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    homes = {}
    for processes in ("1", "2"):
        homes[processes] = tmp_path / f"home-{processes}"
        more = {"NIGHTSHIFT_HOME": str(homes[processes]), "NIGHTSHIFT_TRAINING__PROCESSES": processes}
        night = nightshift("run", OMP_NUM_THREADS="1", NIGHTSHIFT_EMBEDDING__PRECISION="fp32", **more)
        assert night.stdout.startswith("Promoted"), night.stdout + night.stderr
        assert ("training in 2 processes" in night.stderr) == (processes == "2")
    single, double = (challenger(home) for home in homes.values())
    assert single["digest"] == double["digest"]  # the number of processes is not part of the recipe
    assert single["steps"] == double["steps"] > 10
    np.testing.assert_allclose(double["loss"][:3], single["loss"][:3], rtol=1e-4)
    # Two processes sum gradients in another order, and the rounding differences accumulate.
    np.testing.assert_allclose(double["loss"], single["loss"], rtol=1e-3, atol=1e-3)
