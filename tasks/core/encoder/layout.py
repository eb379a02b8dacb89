"""Write the folder of an encoder in the sentence-transformers layout, which loads it and gives the same vectors.

An encoder with shared weights is one model folder. Separate encoders are two model folders, `query/` and `passage/`,
and a `Router` that sends queries and documents to the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.core.base.files import write_json
from tasks.core.encoder.adapters import merge_adapters
from tasks.core.encoder.dense_module import CUT, cut_module, dense_modules, dense_path, save_projection
from tasks.core.encoder.model_files import MODULES, PROMPTS
from tasks.core.encoder.passage_map import MAPS, map_modules
from tasks.core.encoder.pooling import SENTENCE_TRANSFORMERS
from tasks.core.encoder.tower import Tower

TYPES = "sentence_transformers.models."  # the module path that works in releases 5 and 6


def write_tower(tower: Tower, folder: Path, tasks: Mapping[str, Tower]) -> None:
    """Write one model folder: weights (float32, safetensors), tokenizer, and sentence-transformers configuration.

    tasks: the towers that share these weights, by task: "query", "document".

    Adapters are merged into the weights permanently, so do not continue training a tower after writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merge_adapters(tower.transformer)
    tower.transformer.save_pretrained(folder)
    if tower.tokenizer.is_fast:  # remove the limits that the last call set
        tower.tokenizer.backend_tokenizer.no_truncation()
        tower.tokenizer.backend_tokenizer.no_padding()
    tower.tokenizer.save_pretrained(folder)
    write_json(folder / MODULES, _numbered(_modules(tower)))
    limits = {task: task_tower.max_tokens for task, task_tower in tasks.items()}
    config: dict[str, object] = {"max_seq_length": max(limits.values()), "do_lower_case": False}
    if len(set(limits.values())) > 1:
        config |= {f"{task}_length": limit for task, limit in limits.items()}
    write_json(folder / "sentence_bert_config.json", config)
    modes = {key: tower.side.pooling == mode for mode, (_, key) in SENTENCE_TRANSFORMERS.items()}
    hidden = tower.transformer.config.hidden_size
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": hidden, **modes})
    save_projection(tower.projection, folder)
    if tower.dimension < tower.width:
        # A Dense step, as `truncate_dim` would cut after Normalize: a cut vector must have length 1 again.
        cut_module(tower.dimension, tower.width).save(folder / CUT)
    for path, dense in zip(MAPS, map_modules(tower.passage_map), strict=False):
        dense.save(folder / path)
    _write_prompts(folder, tasks)


def write_router(folder: Path, places: Mapping[str, str], tasks: Mapping[str, Tower]) -> None:
    """Write the files that combine several model folders into one model with a route for each task.

    places: task → model folder, relative to `folder`. tasks: task → tower.
    """
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
    write_json(folder / MODULES, _numbered({"": TYPES + "Router"}))
    _write_prompts(folder, tasks)


def _modules(tower: Tower) -> dict[str, str]:
    """Return the steps from text to vector: folder → class."""
    steps = {"": "Transformer", "1_Pooling": "Pooling"}
    steps |= {dense_path(number): "Dense" for number, _ in enumerate(dense_modules(tower.projection))}
    if tower.dimension < tower.width:
        steps[CUT] = "Dense"
    if tower.normalize:
        steps["4_Normalize"] = "Normalize"
    if tower.passage_map is not None:
        steps |= {path: "Dense" for path, _ in zip(MAPS, map_modules(tower.passage_map), strict=False)}
        steps["7_Normalize"] = "Normalize"
    return {path: TYPES + kind for path, kind in steps.items()}


def _numbered(modules: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules.items())]


def _write_prompts(folder: Path, tasks: Mapping[str, Tower]) -> None:
    prompts = {task: tower.prompt for task, tower in tasks.items()}
    write_json(folder / PROMPTS, {"prompts": prompts, "similarity_fn_name": "dot"})
