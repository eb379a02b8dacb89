"""Shared fixtures: an encoder with two layers, and a collection of sixty passages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from browsers import CHROMIUM
from things_and_traits import WORDS, write_collection

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test has a core; more threads would wait for those of other tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Print how to repeat the random order of a failed run; without this, `-q` hides the seed."""
    seed = config.getoption("randomly_seed", None)
    if exitstatus and seed is not None:
        terminalreporter.write_line(f"repeat this order: pytest --randomly-seed={seed}")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Send all tests of a file to one worker of xdist, so that fixtures of a file are set up once and not per worker."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests with the marker `browser` if there is no browser."""
    if CHROMIUM is None and item.get_closest_marker("browser") is not None:
        pytest.skip("no Chromium: install the package chromium of your system")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a BERT of two layers and 32 dimensions with random weights, as a Hugging Face folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    letters = [token for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for token in (letter, f"##{letter}")]
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


@pytest.fixture
def collection(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small BEIR folder with `write_collection`."""
    return lambda name="source", more=0: write_collection(tmp_path / name, more)
