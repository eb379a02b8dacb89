"""Plain English: no literary or private wording in names, docstrings, messages, settings, pages, and guides."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("flows", "tasks", "infra", "data_contracts")
PAGES = {".md", ".yaml", ".toml", ".jinja", ".html", ".js"}
# Idioms, and the words of code that "says" or "asks" instead of reporting or requesting.
REFUSED = re.compile(
    r"\b(anew|once more|mend(s|ed|ing)?|dials?|tells?|told|said|says|asked|looks? at dev|lies? (in|aside)|beside|"
    r"gives? back|goes on|go on|by hand|as it comes|by itself|whoever|whatever|so many|so long|wounds?|dear|of ours|"
    r"of theirs|hangs? on)\b",
    re.IGNORECASE,
)
NAMES = {"one", "some", "this", "found", "asked", "told", "said"}
KEPT_NAMES = {"found"}  # a field of receipts that homes already hold: Hidden.found
TEST_NAMES = re.compile(r"\b(found|itself|what)\b")  # in the names of tests, in addition to REFUSED
TEST_DATA = re.compile(r"^told$|\btold near one\b")  # from the texts of tests/fixtures/things_and_traits.py


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def checked_tests() -> list[Path]:
    """List all files of tests, except this file: it contains the refused words."""
    return [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of every string and comment of a Python file, or of every line of a page."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def names_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and name of everything that a Python file defines: variables, parameters, fields, functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def refused_words(paths: list[Path], data: re.Pattern[str] | None = None) -> list[str]:
    """List the refused words in the texts of files, except in texts that match `data`."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {match.group(0)}"
        for path in paths
        for line, text in texts_of(path)
        for match in REFUSED.finditer(text)
        if data is None or not data.search(text)
    ]


def refused_names(paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        for line, name in names_of(path)
        if name in NAMES and not (name in KEPT_NAMES and path.name == "mining_checks.py")
    ]


def report(kind: str, faults: list[str]) -> str:
    return f"{len(faults)} refused {kind}:\n" + "\n".join(faults[:60])


def test_code_and_guides_contain_no_refused_word() -> None:
    pages = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in PAGES]
    pages = [path for path in pages if path.parent.name != "data_contracts"]  # their bytes are in artifact keys
    faults = refused_words([*sources(), *pages, ROOT / "README.md"])
    assert not faults, report("words", faults)


def test_tests_contain_no_refused_word() -> None:
    faults = refused_words(checked_tests(), TEST_DATA)
    assert not faults, report("words", faults)


def test_no_variable_is_called_one_or_some() -> None:
    faults = refused_names([*sources(), *checked_tests()])
    assert not faults, report("names", faults)


def test_names_of_tests_are_plain() -> None:
    names = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in checked_tests()
        for line, name in names_of(path)
        if name.startswith("test_") and any(words.search(name.replace("_", " ")) for words in (REFUSED, TEST_NAMES))
    ]
    assert not names, report("names of tests", names)


def test_the_lint_reports_refused_words_and_names(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text('def told(one):\n    """It is mended by hand."""\n    found = 1  # lies in it\n')
    assert [match.group(0) for _, text in texts_of(file) for match in REFUSED.finditer(text)] == [
        "mended",
        "by hand",
        "lies in",
    ]
    assert [name for _, name in names_of(file) if name in NAMES] == ["told", "one", "found"]
