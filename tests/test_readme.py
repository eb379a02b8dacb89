"""Links in README and guides lead somewhere, and the tests and benchmarks that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "infra").rglob("*.md"))]
LONGEST = 200  # lines of the README


def test_every_link_leads_somewhere() -> None:
    links = [
        (page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    ]
    assert len(links) > 20
    assert [(page.name, link) for page, link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_every_test_and_benchmark_that_is_named_exists() -> None:
    named = [
        (page, name) for page in PAGES for name in re.findall(r"tests/[\w/]+\.py", page.read_text(encoding="utf-8"))
    ]
    assert [(page.name, name) for page, name in named if not (ROOT / name).is_file()] == []


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST
