"""The folder of an encoder, written so that sentence-transformers loads it as it is and gives the same vectors.

An encoder of shared weights is one model folder. Separate ones lie in `query/` and `passage/`, each a model folder of
its own, under a `Router` that sends queries and documents to theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from tasks.core.base.files import write_json
from tasks.core.encoder.adapters import merge_adapters
from tasks.core.encoder.model_parts import PROJECTION, WEIGHT
from tasks.core.encoder.pooling import SENTENCE_TRANSFORMERS
from tasks.core.encoder.tower import Tower

TYPES = "sentence_transformers.models."  # the name under which releases 5 and 6 both find a module
CUT = "3_Cut"


def write_tower(tower: Tower, folder: Path, tasks: Mapping[str, Tower]) -> None:
    """One model folder: weights (float32, safetensors), tokenizer, and the small files of sentence-transformers.

    `tasks` has the towers that share these weights, by the task they serve: "query", "document". Adapters are merged
    into the weights, for good: a tower that was written is not trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merge_adapters(tower.transformer)
    tower.transformer.save_pretrained(folder)
    if tower.tokenizer.is_fast:  # a limit that the last call set is no part of the tokenizer
        tower.tokenizer.backend_tokenizer.no_truncation()
        tower.tokenizer.backend_tokenizer.no_padding()
    tower.tokenizer.save_pretrained(folder)
    write_json(folder / "modules.json", _numbered(_modules(tower)))
    limits = {task: one.max_tokens for task, one in tasks.items()}
    config: dict[str, object] = {"max_seq_length": max(limits.values()), "do_lower_case": False}
    if len(set(limits.values())) > 1:
        config |= {f"{task}_length": limit for task, limit in limits.items()}
    write_json(folder / "sentence_bert_config.json", config)
    modes = {key: tower.side.pooling == how for how, (_, key) in SENTENCE_TRANSFORMERS.items()}
    hidden = tower.transformer.config.hidden_size
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
    if tower.projection is not None:
        _write_dense(folder / Path(PROJECTION).parent, tower.projection.weight.detach())
    if tower.dimension < tower.width:
        # Cut before Normalize, which `truncate_dim` would come after: a cut vector has length 1 again.
        _write_dense(folder / CUT, torch.eye(tower.dimension, tower.width))
    _write_prompts(folder, tasks)


def write_router(folder: Path, places: Mapping[str, str], tasks: Mapping[str, Tower]) -> None:
    """Bind the model folders `places` (task → name) under `folder` into one model with a route for each task."""
    structure = {
        task: {f"{places[task]}/{path}".rstrip("/"): kind for path, kind in _modules(tower).items()}
        for task, tower in tasks.items()
    }
    write_json(
        folder / "router_config.json",
        {
            "types": {name: kind for modules in structure.values() for name, kind in modules.items()},
            "structure": {task: list(modules) for task, modules in structure.items()},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )
    write_json(folder / "modules.json", _numbered({"": TYPES + "Router"}))
    _write_prompts(folder, tasks)


def _modules(tower: Tower) -> dict[str, str]:
    """The steps from text to vector: folder → class."""
    steps = {"": "Transformer", "1_Pooling": "Pooling"}
    if tower.projection is not None:
        steps[str(Path(PROJECTION).parent)] = "Dense"
    if tower.dimension < tower.width:
        steps[CUT] = "Dense"
    if tower.normalize:
        steps["4_Normalize"] = "Normalize"
    return {path: TYPES + kind for path, kind in steps.items()}


def _numbered(modules: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules.items())]


def _write_dense(folder: Path, weight: torch.Tensor) -> None:
    rows, columns = weight.shape
    identity = "torch.nn.modules.linear.Identity"
    config = {"in_features": columns, "out_features": rows, "bias": False, "activation_function": identity}
    write_json(folder / "config.json", config)
    save_file({WEIGHT: weight.contiguous().cpu()}, folder / "model.safetensors")


def _write_prompts(folder: Path, tasks: Mapping[str, Tower]) -> None:
    prompts = {task: tower.prompt for task, tower in tasks.items()}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "similarity_fn_name": "dot"})
