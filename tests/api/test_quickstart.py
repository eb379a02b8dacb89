"""The quickstart notebook runs from its first cell to its last, in an empty folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "infra" / "docs" / "quickstart.ipynb"
PARAMETERS = """
import nightshift as ns

collection = ns.read_beir("source", home="var")
base = ns.load_encoder(collection, {model!r}, passage_tokens=24, query_tokens=16)
night = '''
home = "var"
[data]
format = "beir"
path = "source"
[encoder]
model = {model!r}
passage_tokens = 24
query_tokens = 16
[mining]
heap_mb = 256
rounds = 1
[training]
epochs = 8
batch_size = 12
learning_rate = 0.003
[gate]
bm25_floor = false
margin = 0.5
'''
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[nbformat.NotebookNode], None]:
    """Execute a notebook in an empty folder, and check that it promoted a release, searched it, and drew a chart."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("PYTHONPATH", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))

    def execute(notebook: nbformat.NotebookNode) -> None:
        resources = {"metadata": {"path": tmp_path}}
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        text = "".join(output.get("text", "") for output in outputs)
        assert "Promoted: release r0001" in text
        assert "nDCG@10" in text
        assert text.splitlines()[-1].partition("  ")[0].replace(".", "").isdigit(), "the last cell prints scored hits"
        assert any("image/png" in output.get("data", {}) for output in outputs)

    return execute


@pytest.mark.slow
def test_the_quickstart_notebook_runs_on_a_small_beir_folder(
    run: Callable[[nbformat.NotebookNode], None], collection: Callable[..., Path], tiny_model: Path
) -> None:
    collection(more=40)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = PARAMETERS.format(model=str(tiny_model))
    run(notebook)


@pytest.mark.slow
def test_the_quickstart_notebook_runs_on_the_demo_collection(run: Callable[[nbformat.NotebookNode], None]) -> None:
    run(nbformat.read(NOTEBOOK, as_version=4))


def test_the_quickstart_notebook_contains_outputs_and_no_machine_path() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(name in NOTEBOOK.read_text(encoding="utf-8") for name in ("/root/", "/home/", "/work/", "/tmp/"))
