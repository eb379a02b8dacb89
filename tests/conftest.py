"""Real things, made small: an encoder of two layers and a collection of sixty passages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

THINGS = ["river", "castle", "violin", "engine", "orchid", "glacier", "market", "lantern", "falcon", "harbour"]
TRAITS = ["ancient", "silent", "golden", "broken", "distant", "narrow"]
WORDS = [
    *THINGS,
    *TRAITS,
    "the",
    "a",
    "is",
    "was",
    "seen",
    "near",
    "where",
    "find",
    "story",
    "of",
    "one",
    "and",
    "told",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 32 dimensions with random weights, as a Hugging Face folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    letters = [letter for one in "abcdefghijklmnopqrstuvwxyz0123456789" for letter in (one, f"##{one}")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


Collection = Callable[..., Path]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Write a BEIR folder of passages about a trait of a thing, and a query for each; `more` adds passages."""

    def write(name: str = "source", more: int = 0) -> Path:
        folder = tmp_path / name
        pairs = [(trait, thing) for trait in TRAITS for thing in THINGS]
        passages = [
            {
                "_id": f"p{n}",
                "title": f"{trait} {thing}",
                "text": f"the story of a {trait} {thing} told near one {thing}",
            }
            for n, (trait, thing) in enumerate(pairs)
        ]
        passages += [
            {"_id": f"x{n}", "title": "", "text": f"one story {n} of a {TRAITS[n % 6]} {THINGS[n % 10]}"}
            for n in range(more)
        ]
        queries = [
            {"_id": f"q{n}", "text": f"where was the {trait} {thing} seen"} for n, (trait, thing) in enumerate(pairs)
        ]
        _lines(folder / "corpus.jsonl", passages)
        _lines(folder / "queries.jsonl", queries)
        for split, numbers in {"train": range(36), "dev": range(36, 40), "test": range(40, 60)}.items():
            rows = "".join(f"q{n}\tp{n}\t1\n" for n in numbers)
            (folder / "qrels").mkdir(exist_ok=True)
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
        return folder

    return write


def _lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
