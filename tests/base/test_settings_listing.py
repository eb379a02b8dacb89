"""The printed settings are a valid settings file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.base.settings_listing import format_settings

OTHER = {
    "home": "/some/ho'me \\ \x7f\x1b\t",
    "keep_days": float("inf"),
    "data": {"format": "beir", "path": 's3://feed/to"night?a=b', "max_refused": {"passages": 0.5, "qrels": 0.0}},
    "encoder": {"query_prompt": "query: \\n ü", "dimensions": [256, 64]},
    "training": {"learning_rate": 1e-7},
    "milvus": {"index": "HNSW", "index_params": {"M": 8}},
}


@pytest.mark.parametrize("settings", [Settings(), Settings.model_validate(OTHER)], ids=["defaults", "others"])
def test_the_printed_listing_loads_to_equal_settings(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(format_settings(settings), encoding="utf-8")
    assert load_settings(file) == settings.model_copy(update={"home": settings.home.absolute()})


def test_every_setting_is_printed_with_its_description_except_secrets() -> None:
    printed = format_settings(Settings.model_validate({"milvus": {"token": "root:Milvus"}}))
    assert "root:Milvus" not in printed
    assert "# token = …" in printed
    lines = printed.splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("# ") and "[" not in line.partition(" = ")[0]:
            assert lines[number - 1].startswith("# "), line
