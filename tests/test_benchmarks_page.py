"""The page of benchmarks: its commands are accepted, and it has every script and every figure of README and guides."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tests" / "benchmarks"
PAGE = (ROOT / "infra" / "docs" / "benchmarks.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(?:[A-Z_]+=\S+ )*python (tests/benchmarks/.*)$", PAGE, re.M)
TRANSCRIPTS = {"first-hour.md", "CHANGELOG.md", "benchmarks.md"}


class Refused(Exception):
    """The parser does not accept the arguments."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise Refused(message)


def parser_of(script: Path) -> Parser:
    """Build the parser of a benchmark from the `add_argument` calls of its source, without its imports."""
    parser = Parser(exit_on_error=False)
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            values = {key.arg: key.value for key in node.keywords if key.arg}
            options = {
                name: ast.literal_eval(values[name])
                for name in ("nargs", "action", "required", "choices")
                if name in values and not isinstance(values[name], ast.Name | ast.Call | ast.List)
            }
            kind = values.get("type")
            if isinstance(kind, ast.Name) and kind.id in {"int", "float"}:
                options["type"] = {"int": int, "float": float}[kind.id]
            parser.add_argument(*(ast.literal_eval(argument) for argument in node.args), **options)
    return parser


def test_the_page_has_commands() -> None:
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted(command: str) -> None:
    script, *arguments = shlex.split(command, comments=True)
    try:
        parser_of(ROOT / script).parse_args([word for word in arguments if word != "--help"])
    except (Refused, argparse.ArgumentError) as error:
        pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("arguments", ["--unknown", "MEDQUAD --steps many", "--steps 5"])
def test_wrong_arguments_are_refused(arguments: str) -> None:
    with pytest.raises((Refused, argparse.ArgumentError)):
        parser_of(SCRIPTS / "quality.py").parse_args(arguments.split())


def test_every_benchmark_is_on_the_page() -> None:
    scripts = [path for path in SCRIPTS.glob("*.py") if "ArgumentParser(" in path.read_text(encoding="utf-8")]
    assert len(scripts) > 25
    assert [path.name for path in scripts if f"tests/benchmarks/{path.name}" not in PAGE] == []


def test_every_measure_in_readme_and_guides_is_on_the_page() -> None:
    recorded = set(re.findall(r"\.\d{4}\b", PAGE))
    guides = [path for path in (ROOT / "infra" / "docs").glob("*.md") if path.name not in TRANSCRIPTS]
    missing = [
        (path.name, figure)
        for path in [ROOT / "README.md", *guides]
        for figure in re.findall(r"(?<![\d\w])\.\d{4}\b", path.read_text(encoding="utf-8"))
        if figure not in recorded
    ]
    assert missing == []


@pytest.mark.slow
def test_benchmarks_call_functions_that_exist_with_their_parameters() -> None:
    """The suite runs few benchmarks, so mypy looks for functions that were renamed or take other parameters."""
    folders = ("tasks", "tests/benchmarks", "tests/fixtures")
    command = [sys.executable, "-m", "mypy", "--follow-imports", "silent", *map(str, SCRIPTS.glob("*.py"))]
    environment = {**os.environ, "MYPYPATH": ":".join([str(ROOT), *(str(ROOT / folder) for folder in folders)])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    broken = re.compile(r'\[(attr-defined|call-arg|name-defined)\]$|module named "(tasks|flows|nightshift)\b')
    errors = [line for line in done.stdout.splitlines() if broken.search(line) and "explicitly export" not in line]
    assert errors == []
