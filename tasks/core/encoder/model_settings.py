"""What a sentence-transformers folder says about its own vectors, compared with `[encoder]`.

A model learned its vectors with a pooling, prompts, and perhaps more steps after the transformer. Other settings give
other vectors than the model's own: they are refused by name unless the settings file states them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.layout import CUT
from tasks.core.encoder.model_files import read_json_list, read_json_object
from tasks.core.encoder.model_parts import PROJECTION, read_tokenizer
from tasks.core.encoder.pooling import SENTENCE_TRANSFORMERS

log = logging.getLogger("nightshift.encoder")

Task = Literal["query", "passage"]
MODULES, PROMPTS, LIMITS = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
SAVED_PROMPTS: dict[Task, tuple[str, ...]] = {"query": ("query",), "passage": ("document", "passage", "corpus")}
PLAIN_DENSE = {"bias": False, "use_residual": False, "module_input_name": "sentence_embedding"}
NO_ACTIVATION = ("torch.nn.modules.linear.Identity", "torch.nn.Identity", None)


class Own(NamedTuple):
    """A setting of `[encoder]` as the model itself has it."""

    setting: str
    value: object  # None: no value of the setting gives the model's own vectors
    source: str  # where the folder says so


def check_model_settings(base: Path, settings: EncoderSettings, tasks: Collection[Task]) -> None:
    """Compare the settings with what `base` says about its own vectors, for the sides in `tasks`.

    A setting that the settings file states is obeyed; a warning says where it differs from the model.

    Raises:
        NightshiftError: the folder has a step that Nightshift lacks, or settings that are not stated differ.
    """
    _check_prompt_pooling(base, settings, tasks)
    differing = [own for own in own_settings(base, tasks) if own.value != getattr(settings, own.setting)]
    open_ = [own for own in differing if own.setting not in settings.model_fields_set]
    for own in differing:
        if own not in open_:
            stated = _toml(getattr(settings, own.setting))
            log.warning(
                "base model %s: [encoder] %s = %s overrides the model's own %s (%s)",
                *(base, own.setting, stated, _toml(own.value), own.source),
            )
    if open_:
        lines = "\n".join(f"  {own.setting} = {_toml(own.value)}  # {own.source}" for own in open_)
        raise NightshiftError(
            f"base model {base}: its own vectors need settings that [encoder] does not state:\n{lines}\n"
            "Add these lines to [encoder] in the settings file, or the values to use in their place."
        )


def own_settings(base: Path, tasks: Collection[Task]) -> Iterator[Own]:
    """The settings of `[encoder]` that give the vectors of sentence-transformers.

    Raises NightshiftError when no settings do, because of a step that Nightshift lacks.
    """
    modules = _modules(base)
    for kind, path in modules:
        yield from _own_of_module(base, kind, path)
    saved = _read(base / PROMPTS)
    yield from _own_normalization(saved.get("similarity_fn_name"), [kind for kind, _ in modules])
    if truncated := saved.get("truncate_dim"):
        yield Own("serve_dimension", truncated, f"truncate_dim in {PROMPTS}")
    for task in tasks:
        yield Own(f"{task}_prompt", saved_prompt(saved, task), f"prompts in {PROMPTS}")
    if _read(base / LIMITS).get("do_lower_case") and _is_cased(base):
        raise _lacking(base, f"do_lower_case in {LIMITS}, with a tokenizer that tells capitals apart")


def saved_prompt(saved: dict[str, Any], task: Task) -> str:
    """The prompt that a model's saved prompts have for queries or for passages; empty: none.

    sentence-transformers saves an empty prompt for each task that has none. The default prompt counts for both sides
    where neither has its own.
    """
    prompts = {name: str(prompt) for name, prompt in (saved.get("prompts") or {}).items() if prompt}
    own = {
        side: next((prompts[name] for name in names if name in prompts), "") for side, names in SAVED_PROMPTS.items()
    }
    return own[task] if any(own.values()) else prompts.get(saved.get("default_prompt_name") or "", "")


def has_own_projection(base: Path, dimension: int) -> bool:
    """Whether the model brings the linear map to `dimension` numbers, so that none has to be drawn."""
    dense = str(Path(PROJECTION).parent)
    is_listed = any((kind, path) == ("Dense", dense) for kind, path in _modules(base))
    return is_listed and _plain_dense(base, dense) == dimension


def _modules(base: Path) -> list[tuple[str, str]]:
    """Class and folder of the steps after the transformer; the pooling alone where the folder lists none."""
    if not (base / MODULES).is_file():
        return [("Pooling", "1_Pooling")]
    steps = [(str(step.get("type", "")), str(step.get("path", ""))) for step in read_json_list(base / MODULES)]
    for type_, _ in steps:
        if not type_.startswith("sentence_transformers."):
            raise _lacking(base, f"the step {type_}, code of its own")
    kinds = [(type_.rpartition(".")[2], path) for type_, path in steps]
    return [(kind, path) for kind, path in kinds if kind not in ("Transformer", "Dropout")]


def _own_of_module(base: Path, kind: str, path: str) -> Iterator[Own]:
    if kind == "Pooling":
        yield from _own_pooling(base / path / "config.json")
    elif kind == "Dense" and path == CUT:  # as our own encoders have it
        yield Own("serve_dimension", _read(base / path / "config.json").get("out_features"), path)
    elif kind == "Dense":
        dimension = _plain_dense(base, path)
        lacks = "" if dimension else ": Nightshift takes over a linear map alone, in safetensors; 0 leaves the step out"
        yield Own("dimension", dimension, f"the Dense step {path}{lacks}")
    elif kind != "Normalize":
        raise _lacking(base, f"the step {kind} ({path})")


def _own_pooling(config: Path) -> Iterator[Own]:
    held = _read(config)
    if not held:
        return
    mode = held.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or ())
    names = {theirs: ours for ours, (theirs, _) in SENTENCE_TRANSFORMERS.items()}
    ours = [names.get(name) for name in modes]
    ours = ours or [how for how, (_, key) in SENTENCE_TRANSFORMERS.items() if held.get(key)] or ["mean"]
    source = f"{config.parent.name}/{config.name}"
    if len(ours) > 1:
        source += f" joins {len(ours)} poolings, which Nightshift cannot"
    yield Own("pooling", ours[0] if len(ours) == 1 else None, source)


def _own_normalization(similarity: object, kinds: list[str]) -> Iterator[Own]:
    """Lengths do not change a ranking by cosine; by inner product or distance they do."""
    normal = "Normalize" in kinds
    if similarity in (None, "cosine") or (normal and similarity in ("dot", "euclidean")):
        yield Own("normalize", True, "the similarity is cosine, or the vectors are normalized")
    elif similarity == "dot":
        yield Own("normalize", False, f"similarity_fn_name in {PROMPTS}")
    else:
        yield Own("normalize", None, f"similarity_fn_name = {similarity!r} in {PROMPTS}, which Nightshift lacks")


def _plain_dense(base: Path, path: str) -> int | None:
    """The numbers that a Dense step leaves, where it is a plain linear map in the place where ours is; else None."""
    held = {
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
        **_read(base / path / "config.json"),
    }
    plain = all(held.get(key, value) == value for key, value in PLAIN_DENSE.items())
    if not plain or held["activation_function"] not in NO_ACTIVATION or f"{path}/model.safetensors" != PROJECTION:
        return None
    return int(held["out_features"]) if (base / PROJECTION).is_file() else None


def _check_prompt_pooling(base: Path, settings: EncoderSettings, tasks: Collection[Task]) -> None:
    for kind, path in _modules(base):
        prompted = [task for task in tasks if getattr(settings, f"{task}_prompt")]
        if kind == "Pooling" and prompted and _read(base / path / "config.json").get("include_prompt") is False:
            raise _lacking(base, f"include_prompt = false in {path}/config.json, and [encoder] has a prompt")


def _is_cased(base: Path) -> bool:
    tokenizer = read_tokenizer(base)
    return bool(tokenizer.tokenize("Some WORDS") != tokenizer.tokenize("some words"))


def _lacking(base: Path, what: str) -> NightshiftError:
    return NightshiftError(
        f"base model {base}: has {what}. Nightshift lacks that and would give other vectors than the model's own: "
        "give [encoder] model another one."
    )


def _toml(value: object) -> str:
    return "…" if value is None else json.dumps(value, ensure_ascii=False)


def _read(file: Path) -> dict[str, Any]:
    return read_json_object(file) if file.is_file() else {}
