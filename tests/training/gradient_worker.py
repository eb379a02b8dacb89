"""Runs in each torchrun process of a test: writes the gradients of one batch for every loss, one file per rank."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tasks.core.training.loop import Job
from tasks.core.training.ranks import Ranks, join_process_group

LOSSES = ("infonce", "triplet", "supcon", "margin_mse", "kl")


def gradients(job: Job, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Return the value of each loss on the first batch, and the gradient of every weight."""
    from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
    from tasks.core.training.batches import batch_at, plan
    from tasks.core.training.losses.choose import choose_loss
    from tasks.core.training.pairs import load_pairs
    from tasks.core.training.step import add_gradients

    encoder = DualEncoder(job.start.path, read_spec(job.start.path))
    encoder.passage.set_dropout(0)
    encoder.passage.train()
    values = {}
    for name in LOSSES:
        settings = job.settings.training.model_copy(update={"loss": name})
        data = load_pairs(job.snapshot, job.negatives, encoder, settings)
        batch = batch_at(data, plan(data, settings, 1)[0], settings, 0)
        encoder.passage.zero_grad(set_to_none=True)
        value = add_gradients(encoder, data, batch, choose_loss(settings), settings, ranks)
        values[f"{name} loss"] = torch.tensor(value)
        for weight, parameter in encoder.passage.named_parameters():
            if parameter.grad is not None:
                values[f"{name} {weight}"] = parameter.grad.clone()
    return values


if __name__ == "__main__":
    file = Path(sys.argv[1])
    with join_process_group() as ranks:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            values = gradients(Job.model_validate_json(file.read_text()), ranks)
        calls = sum(event.count for event in profile.key_averages() if event.key == "c10d::allreduce_")
        values["all-reduces"] = torch.tensor(calls)
        save_file(values, file.with_name(f"gradients-{os.environ['RANK']}.safetensors"))
