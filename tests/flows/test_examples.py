"""The examples of README and guides: settings are accepted, commands are understood, and those of the README run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from things_and_traits import add_lines
from warm_commands import run_code

from flows.cli import app
from tasks.core.base.settings_file import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "infra" / "docs").glob("*.md"))]
Nightshift = Callable[..., subprocess.CompletedProcess[str]]
LIVES_ELSEWHERE = ("init", "run", "up", "down", "serve")  # each has tests of its own in this folder
# Words of the README that stand for something of the reader's.
READERS = {"QUERY": "where was the silent river seen", "PASSAGE": "p1", "p17": "p17", "text": "the golden castle"}


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the examples of a page in these languages."""
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of every `nightshift` command of a page."""
    arguments = []
    for block in blocks(page, "sh", "console", "cron"):
        for line in re.findall(r"^(?:\$ |.*&& |[A-Z_]+=.*?|\*/.*?)?nightshift (.*)$", block, re.M):
            arguments += [shlex.split(line, comments=True)]
    return arguments


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_command_is_understood(page: Path) -> None:
    for command in commands(page):
        named, rest = typer.main.get_command(app), list(command)
        while rest and rest[0] in getattr(named, "commands", {}):
            named = named.commands[rest.pop(0)]
        assert not (rest and hasattr(named, "commands")), command
        named.make_context("nightshift", rest)  # refuses unknown options and missing arguments


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_example_of_settings_is_accepted(page: Path, tmp_path: Path) -> None:
    for number, example in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(example)
        load_settings(file)


def test_the_commands_of_the_readme_run(
    nightshift: Nightshift, environment: dict[str, str], served: None, tmp_path: Path
) -> None:
    source = Path(environment["NIGHTSHIFT_DATA__PATH"])
    add_lines(source, "corpus.jsonl", {"_id": "new", "title": "", "text": "a golden glacier near the market"})
    second = nightshift("run")
    assert second.returncode == 0, second.stderr
    (tmp_path / "queries.txt").write_text("where was the golden falcon seen\n")
    chosen = [[READERS.get(word, word) for word in command] for command in commands(ROOT / "README.md")]
    chosen = [command for command in chosen if not " ".join(command).startswith(LIVES_ELSEWHERE)]
    assert len(chosen) > 12
    program = (
        "import json, sys\nfrom flows.cli import app\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    print('$', *command, flush=True)\n"
        "    assert not app(command, standalone_mode=False)"
    )
    done = run_code(environment, program, json.dumps(chosen), folder=tmp_path)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert (tmp_path / "out" / "index").is_dir()


def test_the_python_example_of_the_readme_runs(environment: dict[str, str], served: None, tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "scifact").symlink_to(environment["NIGHTSHIFT_DATA__PATH"])
    (tmp_path / "night.toml").write_text("")
    example, shortened = re.subn(r"(ns\.train\(collection, negatives)\)", r"\1, max_steps=3)", example)
    assert shortened == 1
    example += "\nprint(answers[0].hits[0].passage_id, len(dataset))"
    done = run_code(environment, example, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nDCG@10" in done.stdout
