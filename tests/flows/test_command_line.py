"""The command line: help, errors, and exit status, in a separate process."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table
from rich.text import Text

from flows.cli import app
from flows.console import open_console, show_controls_in_log_lines
from flows.options import print_json
from tasks.core.base.errors import describe

HEAVY = {"torch", "transformers", "prefect", "pymilvus", "great_expectations", "pyarrow"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)


def commands_of(command: Any, *names: str) -> Iterator[list[str]]:
    """Yield the words of the command, and of all commands below it."""
    yield list(names)
    for name, below in getattr(command, "commands", {}).items():
        yield from commands_of(below, *names, name)


def test_help_shows_an_example_and_loads_no_heavy_package() -> None:
    commands = list(commands_of(typer.main.get_command(app)))
    assert len(commands) > 25
    code = (
        "import json, sys; from flows.cli import app\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert not app([*command, '--help'], 'nightshift', standalone_mode=False)\n"
        f"    print({HEAVY} & set(sys.modules))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 0, process.stderr
    *pages, rest = process.stdout.split("set()\n")
    assert (len(pages), rest) == (len(commands), "")
    for command, page in zip(commands, pages, strict=True):
        assert " ".join(["Usage: nightshift", *command]) in page
        assert "Example" in page or "Start with" in page, command


def test_an_error_prints_a_message_and_with_debug_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    home = str(tmp_path / "home")
    failed = run("releases", NIGHTSHIFT_HOME=home)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith(f"error: home {home}: a file")
    assert "Traceback" in run("--debug", "releases", NIGHTSHIFT_HOME=home).stderr


def test_a_night_logs_its_start_before_slow_imports() -> None:
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
        process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        first, last = process.stderr.splitlines()
        assert line in first
        assert last.startswith("importing")


def test_init_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text("mine")
    refused = run("init", str(tmp_path), "--to", str(tmp_path / "night.toml"))
    assert refused.returncode == 1
    assert "exists already" in refused.stderr
    assert (tmp_path / "night.toml").read_text() == "mine"


def test_the_version_is_printed() -> None:
    assert run("--version").stdout == f"nightshift {version('nightshift')}\n"


def test_wrong_usage_exits_2_with_a_message(tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text("[training]\nbatchsize = 3\n")
    home = {"NIGHTSHIFT_HOME": str(tmp_path / "home")}
    cases = (
        (("search", "caf\udce9"), {}, r"the argument caf\xe9 is not UTF-8"),
        (("run", "--reason", "caf\udce9"), {}, r"the argument caf\xe9 is not UTF-8"),
        (("run", "--settings", str(file)), {}, "[training] batchsize = 3: no such setting. Did you mean batch_size?"),
        (("releases",), {"NIGHTSHIFT_HOMEE": "x"}, "Did you mean NIGHTSHIFT_HOME?"),
        (("search", "x", "--where", '{"titel": {"prefix": "a"}}'), home, "titel: no such field"),
        (("search", "x", "--where", "{"), home, "not JSON"),
    )
    for arguments, environment, message in cases:
        done = run(*arguments, **environment)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "home").exists()


# Root can write everywhere until it drops CAP_DAC_OVERRIDE for the programs that it starts.
WITHOUT_OVERRIDE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-m", "flows.cli", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can drop the rights of root")
def test_a_home_without_permission_is_a_readable_error(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    for name in (home, home / "below"):
        command = [sys.executable, "-c", WITHOUT_OVERRIDE, "releases"]
        environment = {**os.environ, "NIGHTSHIFT_HOME": str(name)}
        failed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert failed.returncode == 1
        assert "should not happen" not in failed.stderr
        assert failed.stderr.startswith(f"error: {name}")
        assert "Give this user read and write permission" in failed.stderr


def test_a_full_disk_is_a_readable_error() -> None:
    with pytest.raises(OSError, match="No space") as full:
        Path("/dev/full").write_text("a")
    assert describe(full.value).startswith("no space left on device. Free space on that disk")
    assert "Free space" in describe(RuntimeError('IO Error: could not write "x": No space left on device'))
    assert describe(KeyError("x")) == "KeyError: 'x'"


def test_terminal_escape_sequences_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", box=None)
    table.add_row("\x1b[31mred\x1b[0m")
    console = open_console(force_terminal=True)
    console.print(table)
    console.print(Text("\x1b]0;title\x07", style="bold"), style="dim")
    output = capsys.readouterr().out
    assert "␛[31mred␛[0m" in output
    assert "␛]0;title" in output
    assert "\x1b[31m" not in output
    assert "\x1b[1" in output  # our own styles remain
    print_json({"title": "\x1b[31m\x9b31m\x7f"})
    assert not re.search("[\x1b\x7f-\x9f]", capsys.readouterr().out)


def test_our_log_lines_contain_no_control_character(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    try:
        show_controls_in_log_lines()
        logging.getLogger("nightshift.ingest").warning("rule %s: %d", "\x1b[31mred", 3)
        logging.getLogger("elsewhere").warning("\x1b[0m")
    finally:
        logging.setLogRecordFactory(before)
    assert [record.getMessage() for record in caplog.records] == ["rule ␛[31mred: 3", "\x1b[0m"]
