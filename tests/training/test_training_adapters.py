from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from small_training import small_settings, stories, trained

from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.training import loop


def settings_at(home: Path, model: Path) -> Settings:
    encoder_settings = {"lora_rank": 4, "dimension": 16, "dimensions": (8,), "serve_dimension": 8}
    settings = small_settings(home, model, learning_rate=0.02, max_steps=8)
    return settings.model_copy(update={"encoder": EncoderSettings(model=str(model), **encoder_settings)})  # type: ignore[arg-type]


def test_a_killed_training_of_adapters_resumes_to_the_same_weights(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = settings_at(tmp_path / "straight", tiny_model)
    straight = trained(stories(there.home), there)
    assert np.mean(straight.loss[-3:]) < np.mean(straight.loss[:3])
    assert load_encoder(straight.path).encode_queries(["a river"]).shape == (1, 8)

    class Killed(BaseException):
        pass

    batch_at = loop.batch_at

    def until_step_five(*arguments: object) -> object:
        if arguments[-1] == 5:
            raise Killed
        return batch_at(*arguments)  # type: ignore[arg-type]

    here = settings_at(tmp_path / "killed", tiny_model)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "batch_at", until_step_five)
        with pytest.raises(Killed):
            trained(stories(here.home), here)
    (checkpoint,) = here.home.rglob("checkpoints/step-*/weights.safetensors")
    assert all(".lora_" in name or "projection" in name for name in load_file(checkpoint))
    resumed = trained(stories(here.home), here)
    assert resumed.loss == straight.loss
    assert resumed.fingerprint == straight.fingerprint
