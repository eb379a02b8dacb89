"""`nightshift init` and a night say where a collection of a given size is searched."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.base.settings_file import load_settings
from tasks.core.ingest.milvus_choice import EMBEDDED_MOST, FLAT_MOST, milvus_lines, warn_of_embedded_limit
from tasks.core.ingest.source_summary import Limit, SourceSummary, settings_text

URI = "http://127.0.0.1:19530"
SUMMARY = SourceSummary("beir", "/data", 10, 5, {"train": 4}, (), Limit(64, 1.0), Limit(32, 1.0))


@pytest.mark.parametrize(
    ("passages", "uri", "index"),
    [
        (FLAT_MOST, "", "FLAT"),
        (FLAT_MOST + 1, "", "IVF_FLAT"),
        (EMBEDDED_MOST + 1, "", "IVF_FLAT"),
        (EMBEDDED_MOST, URI, "FLAT"),
        (EMBEDDED_MOST + 1, URI, "HNSW"),
    ],
)
def test_the_written_settings_fit_the_size(passages: int, uri: str, index: str, tmp_path: Path) -> None:
    text = settings_text(replace(SUMMARY, passages=passages), "var/x", uri)
    (tmp_path / "night.toml").write_text(text, encoding="utf-8")
    milvus = load_settings(tmp_path / "night.toml").milvus
    assert (milvus.index, milvus.uri) == (index, uri)
    assert bool(warn_of_embedded_limit(passages, milvus)) == (not uri and passages > EMBEDDED_MOST)


def test_the_commented_address_of_a_server_is_valid() -> None:
    lines = milvus_lines(EMBEDDED_MOST + 1, "")
    assert tomllib.loads("\n".join(line.removeprefix("# ") for line in lines))["milvus"]["uri"] == URI


def test_the_warning_names_the_next_step() -> None:
    (warning,) = warn_of_embedded_limit(1_000_000, MilvusSettings())
    assert warning.startswith("1,000,000 passages are too many for the embedded Milvus, which is meant for 100,000")
    assert "[milvus] uri" in warning
    assert 'index = "IVF_FLAT"' in warning
    assert "IVF_FLAT" not in warn_of_embedded_limit(1_000_000, MilvusSettings(index="HNSW"))[0]


def test_an_address_that_is_none_is_refused_before_the_source_is_read(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["init", str(tmp_path / "missing"), "--milvus", "localhost", "--to", str(tmp_path / "night.toml")]
    )
    assert result.exit_code == 2, result.output
    assert "--milvus, expected an address such as http://127.0.0.1:19530" in result.output.replace("\n", " ")
