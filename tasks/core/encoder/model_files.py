"""Check that a model folder is complete, before loading anything from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tasks.core.base.errors import NightshiftError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
MODULES = "modules.json"  # the steps of a sentence-transformers folder
PROMPTS = "config_sentence_transformers.json"  # its prompts, similarity, and kind
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LFS_POINTER = b"version https://git-lfs"
# Files that hold a vocabulary. Without one, transformers silently creates a tokenizer with special tokens only.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "*.tiktoken", "tekken.json")
BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # need no vocabulary file


def check_model_files(folder: Path) -> Path:
    """Return `folder` if its configuration, tokenizer, and safetensors weights are present and complete.

    Raises NightshiftError with the file, the problem, and the next step.
    """
    _check_present(folder)
    for file in _weight_files(folder):
        check_weight_file(file)
    check_vocabulary(folder)
    if "model_type" not in read_json_object(folder / "config.json"):
        raise NightshiftError(
            f"{folder / 'config.json'}: no model_type in it, so the architecture is unknown. Copy the file again from "
            "the model."
        )
    return folder


def check_vocabulary(folder: Path) -> None:
    """Raise NightshiftError when the folder has no tokenizer, or a tokenizer file is only a Git LFS pointer."""
    files = [file for pattern in VOCABULARIES for file in folder.glob(pattern)]
    if not files and _tokenizer_class(folder) not in BYTE_TOKENIZERS:
        raise NightshiftError(
            f"model {folder}: no tokenizer in it (none of {', '.join(VOCABULARIES)}). Without it every word would be "
            "unknown: copy the model's tokenizer files into the folder."
        )
    for file in files:
        _refuse_pointer(file)


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file of a model folder.

    Raises NightshiftError when the file is not a JSON object.
    """
    value = _read_json(file)
    if not isinstance(value, dict):
        raise NightshiftError(f"{file}: not a JSON object. Copy the file again from the model.")
    return value


def read_if_present(file: Path) -> dict[str, Any]:
    """Read a JSON object as `read_json_object` does; return an empty one if the file is missing."""
    return read_json_object(file) if file.is_file() else {}


def read_steps(folder: Path) -> list[tuple[str, str]]:
    """Return class and subfolder of each step of a sentence-transformers folder; an empty list if it lists none.

    Raises NightshiftError as `read_json_list` does.
    """
    if not (folder / MODULES).is_file():
        return []
    return [(str(step.get("type", "")), str(step.get("path", ""))) for step in read_json_list(folder / MODULES)]


def read_json_list(file: Path) -> list[dict[str, Any]]:
    """Read a JSON list of objects from a file of a model folder.

    Raises NightshiftError when the file is not a JSON list of objects.
    """
    value = _read_json(file)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise NightshiftError(f"{file}: not a JSON list of objects. Copy the file again from the model.")
    return value


def _read_json(file: Path) -> object:
    _refuse_pointer(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NightshiftError(f"{file}: not valid JSON ({error}). Copy the file again from the model.") from error


def _tokenizer_class(folder: Path) -> object:
    return read_if_present(folder / "tokenizer_config.json").get("tokenizer_class")


def _check_present(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise NightshiftError(
            f"model {folder}: contains adapters (adapter_config.json) but no model. Merge them into their base model "
            "with peft (merge_and_unload, save_pretrained), and give that folder."
        )
    if not (folder / "config.json").is_file():
        raise NightshiftError(f"base model {folder}: no config.json in it. Give the folder that holds the model.")


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        return list(_indexed(folder / WEIGHTS_INDEX))
    if other_files := sorted(file.name for file in folder.glob("*.safetensors")):
        raise NightshiftError(
            f"model {folder}: no {WEIGHTS} in it, only {', '.join(other_files[:3])}. Give a folder that has the "
            "model's complete weights under that name."
        )
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    hint = f" (there is {', '.join(pickled[:3])})" if pickled else ""
    raise NightshiftError(
        f"base model {folder}: no .safetensors weights in it{hint}. Pickled weights are never loaded: if you trust "
        "them, convert them first with AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)."
    )


def _indexed(index: Path) -> Iterator[Path]:
    """Yield the weight files that an index lists."""
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise NightshiftError(f"{index}: lists no weight files. Copy the file again from the model.")
    for name in sorted(set(map(str, names.values()))):
        if not (index.parent / name).is_file():
            raise NightshiftError(
                f"model {index.parent}: {name} is missing, a weight file that {index.name} lists. Copy it from "
                "the model."
            )
        yield index.parent / name


def check_weight_file(file: Path) -> None:
    """Raise NightshiftError when a file is not a complete safetensors file, or only a Git LFS pointer."""
    _refuse_pointer(file)
    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise NightshiftError(
            f"{file}: not a complete safetensors file ({file.stat().st_size:,} bytes; {error}). It is truncated or "
            "damaged: copy it again from the model."
        ) from error


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise NightshiftError(
                f"{file}: a Git LFS pointer, not the file itself. Run git lfs pull in its repository, or copy the file "
                "from the model."
            )
