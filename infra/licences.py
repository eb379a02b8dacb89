"""The licence of every direct dependency, as its package declares it: `python -m infra.licences`.

Prints the table of `docs/security.md`. All extras must be installed; a test compares the two.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
NAMES = {  # what packages say in other words
    "Apache Software License": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "MIT License": "MIT",
    "MPL 2.0": "MPL-2.0",
}


def direct() -> dict[str, str]:
    """Each package that pyproject.toml names, and where: "all" nights, or an extra."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = {"all": project["dependencies"], **project["optional-dependencies"]}
    packages_of: dict[str, str] = {}
    for where, packages in wanted.items():
        for package in packages:
            packages_of.setdefault(re.split(r"[\[<>=~! ]", package)[0], where)
    return packages_of


def licence(package: str) -> str:
    """Return the license in the metadata of an installed package, as an SPDX name where that is clear.

    Raises PackageNotFoundError when it is not installed.
    """
    about = metadata(package)
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    names = about.get_all("License-Expression") or ["; ".join(classified)]
    if not names[0]:  # an older package: its own words, or the beginning of the whole text
        names = about.get_all("License") or ["unknown"]
    first: str = names[0].split("\n")[0]
    return NAMES.get(first, first)


def rows() -> Iterator[str]:
    """The table's rows in Markdown."""
    for package, where in sorted(direct().items(), key=lambda row: (row[1] == "dev", row[0].lower())):
        yield f"| {package} | {where} | {licence(package)} |"


if __name__ == "__main__":
    sys.stdout.write("| package | needed by | licence |\n|---|---|---|\n" + "\n".join(rows()) + "\n")
