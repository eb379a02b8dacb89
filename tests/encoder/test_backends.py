"""Every numeric path gives the vectors of torch in float32, within its bound, for every kind of encoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.core.base.errors import Mismatch
from tasks.core.base.sections.embedding import INT8, Precision
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder import hardware as machine
from tasks.core.encoder.backends import graph
from tasks.core.encoder.backends.batches import GRAIN, micro_batches
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, load_encoder, read_spec, start_from
from tasks.core.encoder.hardware import missing_for

TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent", "one " * 100, "", "a castle"]
PATHS: list[Precision] = ["bf16", "openvino-fp32", "openvino-bf16", "openvino-int8", "openvino-int8-bf16"]
# For a model with 32 dimensions, which has larger rounding errors than one with 384.
LOWEST_COSINE = {"bf16": 0.999, "openvino-fp32": 0.999999, "openvino-bf16": 0.999} | dict.fromkeys(INT8, 0.97)


def create_encoder(base: Path, folder: Path, **settings: object) -> Path:
    folder.mkdir()
    start_from(base, EncoderSpec.of(EncoderSettings(**settings), "fp32"), folder)  # type: ignore[arg-type]
    return folder


def on_path(folder: Path, path: Precision) -> DualEncoder:
    encoder = DualEncoder(folder, read_spec(folder).model_copy(update={"precision": path}))
    if path in INT8:
        for name, tower in encoder.towers.items():
            graph.write(graph.quantize(graph.convert(tower), tower.tokenize(TEXTS[:4])), encoder.places[name])
    return encoder.for_inference()


def require(path: Precision) -> None:
    if missing := missing_for(path):
        pytest.skip(missing)


VARIANTS: dict[str, dict[str, object]] = {
    "mean": {"pooling": "mean"},
    "cls, projected, separate": {"pooling": "cls", "shared": False, "dimension": 16},
    "last, projected, cut": {"pooling": "last", "serve_dimension": 8, "dimension": 24},
    "long vectors, prompt": {"normalize": False, "query_prompt": "find ", "query_tokens": 9},
}
# Each calibration takes a second, and both int8 paths use the same graph.
PAIRS = [(path, like) for like in VARIANTS for path in PATHS if path != "openvino-int8-bf16" or like == "mean"]


@pytest.mark.parametrize(("path", "like"), PAIRS)
def test_both_sides_are_near_to_torch_in_float32(path: Precision, like: str, tiny_model: Path, tmp_path: Path) -> None:
    require(path)
    folder = create_encoder(tiny_model, tmp_path / "encoder", **VARIANTS[like])
    exact, fast = load_encoder(folder), on_path(folder, path)
    for theirs, ours in (
        (exact.encode_passages(TEXTS), fast.encode_passages(TEXTS)),
        (exact.encode_queries(TEXTS), fast.encode_queries(TEXTS)),
    ):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        lengths = np.linalg.norm(theirs, axis=1), np.linalg.norm(ours, axis=1)
        assert ((theirs * ours).sum(axis=1) / (lengths[0] * lengths[1])).min() > LOWEST_COSINE[path]
        np.testing.assert_allclose(lengths[1], lengths[0], rtol=0.02)


@pytest.mark.parametrize("path", ["fp32", *PATHS])
def test_lists_and_arrays_of_token_ids_in_any_order_give_the_same_vectors(
    path: Precision, tiny_model: Path, tmp_path: Path
) -> None:
    require(path)
    encoder = on_path(create_encoder(tiny_model, tmp_path / "encoder"), path)
    ids = encoder.passage.tokenize(TEXTS * 20)
    vectors = encoder.passage.encode(ids, 256)
    arrays = [np.array(row, np.int32) for row in reversed(ids)]
    np.testing.assert_allclose(encoder.passage.encode(arrays, 256)[::-1], vectors, atol=2e-6)
    assert encoder.passage.encode([], 256).shape == (0, 32)


@pytest.mark.parametrize("path", ["openvino-fp32", "openvino-int8"])
def test_a_vector_is_the_same_with_one_and_two_cores(path: Precision, tiny_model: Path, tmp_path: Path) -> None:
    require(path)
    import torch

    folder = create_encoder(tiny_model, tmp_path / "encoder")
    before, vectors = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            vectors.append(on_path(folder, path).encode_passages(TEXTS * 10))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_the_same_texts_calibrate_the_same_graph(tiny_model: Path, tmp_path: Path) -> None:
    require("openvino-int8")
    bytes_of = []
    for name in ("one", "two"):
        folder = create_encoder(tiny_model, tmp_path / name)
        on_path(folder, "openvino-int8")
        bytes_of.append([(folder / file).read_bytes() for file in (graph.XML, graph.BIN)])
    assert bytes_of[0] == bytes_of[1]


def test_an_unsupported_numeric_path_names_the_package_to_install(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    start_from(tiny_model, EncoderSpec.of(EncoderSettings(), "openvino-fp32"), folder)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)  # as without the extra
    with pytest.raises(Mismatch, match=r'openvino-fp32.*pip install "nightshift\[openvino\]"'):
        load_encoder(folder)


def test_batches_hold_every_row_once_in_few_shapes_within_the_budget() -> None:
    lengths = np.random.default_rng(0).integers(1, 61, 1000)
    batches = list(micro_batches(lengths, 60, 512))
    assert sorted(np.concatenate([rows for rows, _ in batches]).tolist()) == list(range(1000))
    for rows, width in batches:
        assert width - GRAIN < lengths[rows].min() <= lengths[rows].max() <= width <= 60
        assert len(rows) * width <= 512
        assert len(rows).bit_count() == 1
        assert len(rows) * width * 2 > 512 or len(rows).bit_length() % 2 == 1  # full, or a power of four
    shapes = {(len(rows), width) for rows, width in batches}
    assert len(shapes) <= 4 * 4  # widths 16, 32, 48, 60; full, 16, 4, 1


def test_a_text_longer_than_the_budget_gets_a_separate_batch() -> None:
    assert [(rows.tolist(), width) for rows, width in micro_batches(np.array([9, 30, 0]), 100, 16)] == [
        ([1], 32),
        ([0], 16),
        ([2], 16),
    ]


def test_openvino_and_nncf_send_no_telemetry() -> None:
    require("openvino-fp32")
    code = (
        "import sys, logging; kind = logging.getLoggerClass();"
        "from tasks.core.encoder.backends import graph; graph._import_nncf();"
        "import openvino.tools.ovc.convert_impl as ovc; from nncf.telemetry.wrapper import telemetry;"
        "assert sys.modules['openvino_telemetry'] is None and 'stub' in ovc.tm.__name__, ovc.tm;"
        "assert type(telemetry).__name__ == 'MagicMock' and logging.getLoggerClass() is kind"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
