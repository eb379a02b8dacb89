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


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


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


def refused_words(paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {match.group(0)}"
        for path in paths
        for line, text in texts_of(path)
        for match in REFUSED.finditer(text)
    ]


def test_no_refused_word_in_code_and_guides() -> None:
    pages = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in PAGES]
    pages = [path for path in pages if path.parent.name != "data_contracts"]  # their bytes are in artifact keys
    found = refused_words([*sources(), *pages, ROOT / "README.md"])
    assert not found, f"{len(found)} refused words:\n" + "\n".join(found[:60])


def test_no_variable_is_called_one_or_some() -> None:
    names = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources()
        for line, name in names_of(path)
        if name in NAMES and not (name in KEPT_NAMES and path.name == "receipts.py")
    ]
    assert not names, f"{len(names)} refused names:\n" + "\n".join(names[:60])


def test_the_lint_finds_what_it_looks_for(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text('def told(one):\n    """It is mended by hand."""\n    found = 1  # lies in it\n')
    assert [match.group(0) for _, text in texts_of(file) for match in REFUSED.finditer(text)] == [
        "mended",
        "by hand",
        "lies in",
    ]
    assert [name for _, name in names_of(file) if name in NAMES] == ["told", "one", "found"]
