"""Read the `[encoder]` settings that a sentence-transformers folder was trained with.

A model was trained with a certain pooling, prompts, and perhaps more steps after the transformer. Other settings
change its vectors, so the model's own settings are used where the settings file states none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dense_module import CUT, listed_dense, read_dense_config, why_unsupported
from tasks.core.encoder.model_files import MODULES, PROMPTS, read_if_present, read_steps
from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.encoder.pooling import SENTENCE_TRANSFORMERS

log = logging.getLogger("nightshift.encoder")

Task = Literal["query", "passage"]
LIMITS = "sentence_bert_config.json"
ORDER = ("Pooling", "Dense", "Normalize")
SAVED_PROMPTS: dict[Task, tuple[str, ...]] = {"query": ("query",), "passage": ("document", "passage", "corpus")}


class ModelSetting(NamedTuple):
    """A setting of `[encoder]` with the value that the model folder asks for."""

    name: str
    value: object  # None: no value reproduces the model's own vectors
    source: str  # the file or step of the folder that gives the value


def adopt_model_settings(
    settings: EncoderSettings, folders: Mapping[Task, Path], *, report: bool = False
) -> EncoderSettings:
    """Return the settings with values that the base models were trained with, where the settings file states none.

    A setting stated in the settings file takes precedence.

    Args:
        settings: `[encoder]`.
        folders: folder of the base model of each side.
        report: log which values come from a model, and which of its values the settings file overrides.

    Raises:
        NightshiftError: a folder has a step or a value that Nightshift does not support, or the two models need
            different values of a setting that both sides share.
    """
    adopted: dict[str, ModelSetting] = {}
    for folder in dict.fromkeys(folders.values()):
        tasks = [task for task in folders if folders[task] == folder]
        for setting in own_settings(folder, tasks):
            if setting.name in settings.model_fields_set:
                if report and setting.value != getattr(settings, setting.name):
                    _warn_of_override(folder, setting, getattr(settings, setting.name))
            elif setting.name in adopted and adopted[setting.name].value != setting.value:
                raise _conflict(settings, adopted[setting.name], setting)
            elif setting.value is None:
                raise NightshiftError(
                    f"base model {folder}: its own {setting.name} is not supported: {setting.source}. Set [encoder] "
                    f"{setting.name} to the value to use in its place, or [encoder] model to another model."
                )
            else:
                adopted[setting.name] = setting
    changes = {name: setting for name, setting in adopted.items() if setting.value != getattr(settings, name)}
    if report and changes:
        listed = ", ".join(f"{name} = {_toml(value)} ({source})" for name, value, source in changes.values())
        log.info("base model %s: using its own settings, which [encoder] does not state: %s", settings.model, listed)
    resolved = settings.model_copy(update={name: setting.value for name, setting in changes.items()})
    _check_prompt_pooling(resolved, folders)
    return resolved


def _warn_of_override(base: Path, setting: ModelSetting, stated: object) -> None:
    log.warning(
        "base model %s: [encoder] %s = %s overrides the model's own %s (%s)",
        *(base, setting.name, _toml(stated), _toml(setting.value), setting.source),
    )


def _conflict(settings: EncoderSettings, first: ModelSetting, second: ModelSetting) -> NightshiftError:
    return NightshiftError(
        f"[encoder] model {settings.model} and query_model {settings.query_model} need different values of "
        f"{first.name}: {_toml(first.value)} ({first.source}) and {_toml(second.value)} ({second.source}). Both sides "
        f"share this setting: set [encoder] {first.name} to the value to use for both."
    )


def own_settings(base: Path, tasks: Collection[Task]) -> Iterator[ModelSetting]:
    """Yield the settings of `[encoder]` that reproduce the vectors of sentence-transformers.

    Raises NightshiftError when the folder has a step that Nightshift does not support.
    """
    modules = _modules(base)
    _check_order(base, modules)
    for kind, path in modules:
        yield from _settings_of_module(base, kind, path)
    yield from _dense_setting(base)
    saved = read_if_present(base / PROMPTS)
    if saved.get("model_type") == "CrossEncoder":
        raise _unsupported(base, "pairs of texts as its input (a cross-encoder), which [mining] cross_encoder can use")
    yield from _normalization_setting(saved.get("similarity_fn_name"), [kind for kind, _ in modules])
    if truncated := saved.get("truncate_dim"):
        yield ModelSetting("serve_dimension", truncated, f"truncate_dim in {PROMPTS}")
    for task in tasks:
        yield ModelSetting(f"{task}_prompt", saved_prompt(saved, task), f"prompts in {PROMPTS}")
    if read_if_present(base / LIMITS).get("do_lower_case") and _is_cased(base):
        raise _unsupported(base, f"do_lower_case in {LIMITS}, with a tokenizer that distinguishes capitals")


def saved_prompt(saved: dict[str, Any], task: Task) -> str:
    """Return the saved prompt of a model for queries or for passages; an empty string if there is none.

    sentence-transformers saves an empty prompt for each task without one. The default prompt applies to both sides if
    neither has its own.
    """
    prompts = {name: str(prompt) for name, prompt in (saved.get("prompts") or {}).items() if prompt}
    by_side = {
        side: next((prompts[name] for name in names if name in prompts), "") for side, names in SAVED_PROMPTS.items()
    }
    return by_side[task] if any(by_side.values()) else prompts.get(saved.get("default_prompt_name") or "", "")


def has_own_projection(base: Path, dimension: int) -> bool:
    """Return True if the Dense modules of the model give `dimension` numbers, so none has to be initialized."""
    paths = listed_dense(base)
    if not paths or any(why_unsupported(base / path) for path in paths):
        return False
    return bool(read_dense_config(base / paths[-1])["out_features"] == dimension)


def _modules(base: Path) -> list[tuple[str, str]]:
    """Return class and folder of each step after the transformer; only the pooling if the folder lists no steps."""
    if not (base / MODULES).is_file():
        return [("Pooling", "1_Pooling")]
    steps = read_steps(base)
    for type_, _ in steps:
        if not type_.startswith("sentence_transformers."):
            raise _unsupported(base, f"the step {type_}, which is custom code")
    kinds = [(type_.rpartition(".")[2], path) for type_, path in steps]
    return [(kind, path) for kind, path in kinds if kind not in ("Transformer", "Dropout")]


def _check_order(base: Path, modules: list[tuple[str, str]]) -> None:
    """Raise NightshiftError when the steps are not in the order pooling, Dense, Normalize."""
    order = [kind for kind, _ in modules if kind in ORDER]
    if order != sorted(order, key=ORDER.index):
        raise _unsupported(base, f"the steps {', '.join(order)} in this order (supported: {', '.join(ORDER)})")


def _settings_of_module(base: Path, kind: str, path: str) -> Iterator[ModelSetting]:
    if kind == "Pooling":
        yield from _pooling_setting(base / path / "config.json")
    elif kind == "Dense" and path == CUT:  # Nightshift's encoders cut vectors with this step
        yield ModelSetting("serve_dimension", read_if_present(base / path / "config.json").get("out_features"), path)
    elif kind not in ("Dense", "Normalize"):
        raise _unsupported(base, f"the step {kind} ({path})")


def _pooling_setting(config: Path) -> Iterator[ModelSetting]:
    values = read_if_present(config)
    if not values:
        return
    mode = values.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else list(mode or ())
    names = {saved_name: name for name, (saved_name, _) in SENTENCE_TRANSFORMERS.items()}
    poolings = [names.get(name) for name in modes]
    poolings = poolings or [name for name, (_, key) in SENTENCE_TRANSFORMERS.items() if values.get(key)] or ["mean"]
    source = f"{config.parent.name}/{config.name}"
    if len(poolings) > 1:
        source += f" joins {len(poolings)} poolings, which Nightshift does not support"
    yield ModelSetting("pooling", poolings[0] if len(poolings) == 1 else None, source)


def _normalization_setting(similarity: object, kinds: list[str]) -> Iterator[ModelSetting]:
    """Yield `normalize`: vector lengths do not affect a cosine ranking, but do affect inner products and distances."""
    normal = "Normalize" in kinds
    if similarity in (None, "cosine") or (normal and similarity in ("dot", "euclidean")):
        yield ModelSetting("normalize", True, "the similarity is cosine, or the vectors are normalized")
    elif similarity == "dot":
        yield ModelSetting("normalize", False, f"similarity_fn_name in {PROMPTS}")
    else:
        yield ModelSetting(
            "normalize", None, f"similarity_fn_name = {similarity!r} in {PROMPTS}, which Nightshift does not support"
        )


def _dense_setting(base: Path) -> Iterator[ModelSetting]:
    """Yield `dimension`, the length of the vector after the last Dense module."""
    paths = listed_dense(base)
    for path in paths:
        if reason := why_unsupported(base / path):
            yield ModelSetting("dimension", None, f"the Dense step {path} {reason}; 0 skips it")
            return
    if paths:
        steps = f"the Dense step {paths[0]}" if len(paths) == 1 else f"the Dense steps {', '.join(paths)}"
        yield ModelSetting("dimension", int(read_dense_config(base / paths[-1])["out_features"]), steps)


def _check_prompt_pooling(settings: EncoderSettings, folders: Mapping[Task, Path]) -> None:
    for task, base in folders.items():
        for kind, path in _modules(base) if getattr(settings, f"{task}_prompt") else ():
            if kind == "Pooling" and read_if_present(base / path / "config.json").get("include_prompt") is False:
                raise _unsupported(
                    base, f"include_prompt = false in {path}/config.json, and [encoder] {task}_prompt is not empty"
                )


def _is_cased(base: Path) -> bool:
    tokenizer = read_tokenizer(base)
    return bool(tokenizer.tokenize("Some WORDS") != tokenizer.tokenize("some words"))


def _unsupported(base: Path, feature: str) -> NightshiftError:
    return NightshiftError(
        f"base model {base}: has {feature}. Nightshift does not support it and would compute other vectors than the "
        "model: set [encoder] model to another model."
    )


def _toml(value: object) -> str:
    return "…" if value is None else json.dumps(value, ensure_ascii=False)
