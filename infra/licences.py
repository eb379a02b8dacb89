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
    found: dict[str, str] = {}
    for where, packages in wanted.items():
        for package in packages:
            found.setdefault(re.split(r"[\[<>=~! ]", package)[0], where)
    return found


def licence(package: str) -> str:
    """What the metadata of an installed package says, as an SPDX name where that is plain.

    Raises PackageNotFoundError when it is not installed.
    """
    about = metadata(package)
    classified = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    said = about.get_all("License-Expression") or ["; ".join(classified)]
    if not said[0]:  # an older package: its own words, or the beginning of the whole text
        said = about.get_all("License") or ["unknown"]
    first: str = said[0].split("\n")[0]
    return NAMES.get(first, first)


def rows() -> Iterator[str]:
    """The table's rows in Markdown."""
    for package, where in sorted(direct().items(), key=lambda one: (one[1] == "dev", one[0].lower())):
        yield f"| {package} | {where} | {licence(package)} |"


if __name__ == "__main__":
    sys.stdout.write("| package | needed by | licence |\n|---|---|---|\n" + "\n".join(rows()) + "\n")
