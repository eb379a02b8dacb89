"""The licence table lists the declared and installed dependencies."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from infra.licences import direct, licence

PAGE = Path(__file__).parents[2] / "infra" / "docs" / "security.md"
TABLE = {
    package: (group, licence)
    for line in PAGE.read_text(encoding="utf-8").split("## Licences")[1].splitlines()
    if line.startswith("| ")
    for package, group, licence in [line.strip("| ").split(" | ")]
    if package != "package"
}


def test_the_licence_table_lists_exactly_the_direct_dependencies() -> None:
    assert {package: group for package, (group, _) in TABLE.items()} == direct()


@pytest.mark.parametrize("package", TABLE)
def test_each_licence_matches_the_package_metadata(package: str) -> None:
    try:
        declared = licence(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert TABLE[package][1] == declared
