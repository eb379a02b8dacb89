"""An encoder with stored graphs serves the vectors of a converted one, and loads without the classes that train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.core.base.files import write_json
from tasks.core.base.sections.embedding import Precision
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.backends import graph
from tasks.core.encoder.dual_encoder import SPEC, DualEncoder, EncoderSpec, fingerprint, load_encoder, start_from
from tasks.core.encoder.hardware import missing_for
from tasks.core.encoder.passage_map import MAPS, map_modules, map_to_train
from tasks.core.encoder.served import GraphEncoder
from tasks.core.encoder.tokenizer_digest import number_kind, tokenizer_key

TEXTS = ["a river", "the story of one golden violin seen near a castle", "one " * 100, "", "a castle"]


@pytest.fixture(params=[True, False], ids=["shared", "separate with a map"])
def encoder(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> DualEncoder:
    path: Precision = "openvino-fp32"
    if missing := missing_for(path):
        pytest.skip(missing)
    folder = tmp_path / "encoder"
    folder.mkdir()
    settings = EncoderSettings(shared=request.param, query_prompt="find ", query_tokens=9)
    spec = EncoderSpec.of(settings, path)
    start_from(tiny_model, spec, folder)
    if not spec.shared:
        for name, module in zip(MAPS, map_modules(map_to_train(None, 32, rank=0, hidden=8)), strict=True):
            module.save(folder / "passage" / name)
    write_json(folder / SPEC, spec.model_dump())
    return DualEncoder(folder, spec)


def store_graphs(encoder: DualEncoder) -> None:
    for name, tower in encoder.towers.items():
        graph.write(graph.convert(tower), encoder.places[name], graph.FLOAT)


def test_stored_graphs_serve_the_same_vectors_under_the_same_name(encoder: DualEncoder) -> None:
    before = fingerprint(encoder.folder)
    store_graphs(encoder)
    assert fingerprint(encoder.folder) == before
    converted, served = DualEncoder(encoder.folder, encoder.spec), load_encoder(encoder.folder)
    assert isinstance(served, GraphEncoder)
    for tower, other in ((converted.query, served.query), (converted.passage, served.passage)):
        assert tokenizer_key(tower) == tokenizer_key(other)
        assert number_kind(tower) == number_kind(other)
        assert tower.tokenize(TEXTS) == other.tokenize(TEXTS)
    converted.for_inference()
    assert served.dimension == converted.dimension
    np.testing.assert_array_equal(served.encode_queries(TEXTS), converted.encode_queries(TEXTS))
    np.testing.assert_array_equal(served.encode_passages(TEXTS), converted.encode_passages(TEXTS))
    assert served.encode_passages([]).shape == (0, served.dimension)


def test_the_same_weights_give_the_same_graph(encoder: DualEncoder) -> None:
    bytes_of = []
    for _ in range(2):
        store_graphs(encoder)
        files = [place / graph.FLOAT for place in encoder.places.values()]
        bytes_of.append([(file.read_bytes(), file.with_suffix(".bin").read_bytes()) for file in files])
    assert bytes_of[0] == bytes_of[1]


def test_an_encoder_of_an_earlier_version_has_no_float_graph_and_is_converted(encoder: DualEncoder) -> None:
    assert isinstance(load_encoder(encoder.folder), DualEncoder)


def test_the_classes_that_train_are_not_imported_to_serve(encoder: DualEncoder) -> None:
    store_graphs(encoder)
    code = (
        "import sys; from pathlib import Path; from tasks.core.encoder.loading import load_encoder;"
        f"print(load_encoder(Path({str(encoder.folder)!r})).encode_queries(['a river']).shape);"
        "assert 'transformers.modeling_utils' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(1, 32)\n"), done.stderr
