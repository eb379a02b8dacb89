"""What README and guides point to is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "infra").rglob("*.md"))]


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.splitlines() if not name.startswith(".") and not name.endswith("__init__.py")}


def test_the_tree_has_every_file_and_a_few_words_for_each() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## The tree")[2].partition("```\n")[2].partition("```")[0]
    found, folders = set(), [""]
    for line in tree.splitlines():
        indent, name, words = re.fullmatch(r"( *)(\S+)(?: +(.*))?", line).groups()  # type: ignore[union-attr]
        assert words, line
        del folders[len(indent) // 2 + 1 :]
        if name.endswith("/"):
            folders.append(folders[-1] + name)
        else:
            found.add(folders[-1] + name)
    assert found == tracked()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_and_benchmark_that_is_named_is_there(page: Path) -> None:
    for named in re.findall(r"tests/[\w/]+\.py", page.read_text(encoding="utf-8")):
        assert (ROOT / named).is_file(), named
