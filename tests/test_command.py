"""What the command does with what goes wrong, in its own process as a person meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    [],
    ["run"],
    ["init"],
    ["settings"],
    ["up"],
    ["down"],
    ["search"],
    ["shadow"],
    ["export"],
    ["report"],
    ["compare"],
    ["releases"],
    ["releases", "pin"],
    ["releases", "unpin"],
    ["rollback"],
    ["drift"],
    ["quarantine"],
    ["doctor"],
]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_comes_with_an_example_and_without_loading_anything_heavy(command: list[str]) -> None:
    code = "import sys; sys.argv[0] = 'nightshift'; from flows.cli import app; app(standalone_mode=False); " + (
        "print({'torch', 'transformers', 'prefect', 'pymilvus', 'great_expectations', 'pyarrow'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert "Example" in shown.stdout or "Start with" in shown.stdout
    assert shown.stdout.rstrip().endswith("set()")


def test_an_error_is_a_message_and_with_debug_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    home = str(tmp_path / "home")
    failed = run("releases", NIGHTSHIFT_HOME=home)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith(f"error: home {home}: a file")
    assert "Traceback" in run("--debug", "releases", NIGHTSHIFT_HOME=home).stderr


def test_a_night_reports_its_start_before_it_imports_what_takes_seconds() -> None:
    code = (
        "import sys\n"
        "class Refuses:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in {'torch', 'prefect', 'transformers', 'pyarrow', 'pydantic_settings'}:\n"
        "            raise SystemExit(f'importing {name}')\n"
        "sys.meta_path.insert(0, Refuses())\n"
        "from flows.cli import app; app()"
    )
    for arguments, line in ((["run", "--reason", "a test"], "Starting a night (a test)"), (["drift"], "Comparing")):
        began = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        first, last = began.stderr.splitlines()
        assert line in first
        assert last.startswith("importing")


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text("mine")
    refused = run("init", str(tmp_path), "--to", str(tmp_path / "night.toml"))
    assert refused.returncode == 1
    assert "is there already" in refused.stderr
    assert (tmp_path / "night.toml").read_text() == "mine"
