"""Complete nights in a home with damaged files: the night rebuilds them, or its error names the next step."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_damage import HARMS
from things_and_traits import add_lines

Command = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]

TRIES = 30
SHELVES = (
    *("snapshots", "ingests", "indexes", "runs", "texts", "tokens", "shingles", "negatives"),
    *("encoders", "embeddings", "evaluations", "references"),
)
RAW = ("Traceback", "This should not happen", "JSONDecodeError", "ArrowInvalid", "UnicodeDecodeError", "IndexError")
FIGURES = ("encoder", "snapshot", "metrics", "bm25", "base")


def victims(home: Path) -> list[Path]:
    """Return every artifact file and the history."""
    files = [file for shelf in SHELVES for file in sorted(home.glob(f"{shelf}/[!.]*/**/*")) if file.is_file()]
    return [file for file in [*files, home / "history.parquet"] if file.stat().st_size]


def serving(nightshift: Command) -> dict[str, Any]:
    done = nightshift("releases", "--json")
    assert done.returncode == 0, done.stderr
    releases = json.loads(done.stdout)
    return next(release for release in releases["releases"] if release["release"] == releases["serving"])


def add_passage(source: Path) -> None:
    add_lines(source, "corpus.jsonl", {"_id": "fresh", "title": "", "text": "a silent glacier and a broken engine"})


@pytest.mark.slow
def test_nights_in_a_damaged_home_fail_readably_or_promote_the_same_release_as_in_an_undamaged_home(
    nightshift: Command, environment: Environment, first_night: Path
) -> None:
    home, source = Path(environment["NIGHTSHIFT_HOME"]), Path(environment["NIGHTSHIFT_DATA__PATH"])
    add_passage(source)
    shutil.copytree(first_night / "home", home)
    assert nightshift("run").stdout.startswith("Promoted")
    undamaged = serving(nightshift)
    draws = random.Random(20)
    counts = {"rebuilt": 0, "lost": 0, "errors": 0}
    for _ in range(TRIES):
        shutil.rmtree(home)
        shutil.copytree(first_night / "home", home)
        harmed = {file: draws.choice(list(HARMS)) for file in draws.sample(victims(home), draws.choice([1, 1, 3]))}
        for file, harm in harmed.items():
            HARMS[harm](file)
        damage = str({str(file.relative_to(home)): harm for file, harm in harmed.items()})
        night = nightshift("run")
        output = night.stdout + night.stderr
        assert not [word for word in RAW if word in output], f"{damage}\n{output}"
        counts["errors"] += night.returncode
        if night.returncode:
            night = nightshift("run")
        assert night.returncode == 0, f"{damage}\n{night.stderr}"
        assert night.stdout.startswith("Promoted"), f"{damage}\n{night.stdout}{night.stderr}"
        lost = "lost" in output
        counts["lost" if lost else "rebuilt"] += 1
        current = serving(nightshift)
        same = [name for name in FIGURES if lost or current[name] == undamaged[name]]
        assert same == list(FIGURES), f"{damage}\n{current}"
        assert nightshift("run").stdout.startswith("Skipped"), damage
    print(counts)
