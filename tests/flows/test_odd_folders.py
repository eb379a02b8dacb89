"""A night in a folder of any name, from any working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from things_and_traits import SMALL_NIGHT, write_collection

SETTINGS = """
home = "var/a home"
[data]
format = "beir"
path = "the source"
[encoder]
model = "~/model"
passage_tokens = 24
"""


@pytest.mark.slow
def test_a_night_runs_in_a_folder_with_spaces_quotes_and_unicode_in_the_c_locale(
    tmp_path: Path, tiny_model: Path, prefect_server: str
) -> None:
    folder = tmp_path / 'nächte "von" o\'wl 狐'
    write_collection(folder / "the source", more=40)
    (folder / "night.toml").write_text(SETTINGS + SMALL_NIGHT, encoding="utf-8")
    (tmp_path / "model").symlink_to(tiny_model)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "LC_ALL": "C",
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(folder / "prefect"),
    }

    def nightshift(*arguments: str, cwd: Path) -> str:
        command = [sys.executable, "-m", "flows.cli", *arguments, "--settings", str(folder / "night.toml")]
        paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            command, env={**environment, **paths}, cwd=cwd, capture_output=True, encoding="utf-8", timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert f"home {folder / 'var/a home'}" in done.stderr or cwd == folder
        return done.stdout

    assert nightshift("run", cwd=tmp_path).startswith("Promoted")
    assert nightshift("run", cwd=folder).startswith("Skipped")  # the same feed, recipe, and home
    assert "golden castle" in nightshift("search", "the golden castle", "--fuse", cwd=Path("/"))
