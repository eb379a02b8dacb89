"""Shared fixtures: an encoder with two layers, and a collection of sixty passages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsers import CHROMIUM
from things_and_traits import WORDS, write_collection

NIGHTS = "tests/flows/"  # share a Prefect server and a first night

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test has a core; more threads would wait for those of other tests


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Print how to repeat the random order of a failed run; without this, `-q` hides the seed."""
    seed = config.getoption("randomly_seed", None)
    if exitstatus and seed is not None:
        terminalreporter.write_line(f"repeat this order: pytest --randomly-seed={seed}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send all tests of a file to one worker, and those of whole nights, so each fixture is set up on one worker only.

    (Groups of `--dist loadgroup` have no effect with pytest 9.2 and pytest-xdist 3.8.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return NIGHTS if file.startswith(NIGHTS) else file

    return ByFile(config, log)


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
