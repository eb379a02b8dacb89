"""The wheel, installed in a fresh environment and used from a user's folder that has modules of the same names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from things_and_traits import SMALL_NIGHT

ROOT = Path(__file__).parents[2]
SETTINGS = """
home = "home"
[data]
format = "beir"
path = "source"
[encoder]
model = "{model}"
passage_tokens = 24
"""
SCRIPT = """
import nightshift as ns

collection = ns.read_beir("source", home="api")
negatives = ns.mine_negatives(collection, per_query=2, progress=False)
print(len(negatives.to_dataset()) > 36, ns.evaluate("bm25", collection, progress=False)["nDCG@10"] > 0.5)
print(ns.serving("night.toml").name)
print(ns.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of executables of a new environment: our wheel, over the packages of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():  # a build writes into its source folder
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(folder / "source")]
    subprocess.run([*pip, *built], check=True, timeout=300)
    venv.create(folder / "venv", with_pip=False)
    executables = folder / "venv" / "bin"
    (wheel,) = folder.glob("nightshift-*.whl")
    python = str(executables / "python")
    subprocess.run(
        [*pip, "--python", python, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=300
    )
    site = sysconfig.get_path("purelib", vars={"base": str(folder / "venv")})
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    # The lines are searched after the new environment, and .pth files in them (an editable install's) are not read.
    (Path(site) / "packages.pth").write_text("\n".join(packages) + "\n")
    return executables


@pytest.fixture
def project(tmp_path: Path, collection: Callable[..., Path], tiny_model: Path) -> Path:
    """A user's folder with a source, settings, and modules that have the names of our packages."""
    collection(more=40)
    (tmp_path / "night.toml").write_text(SETTINGS.format(model=tiny_model) + SMALL_NIGHT)
    (tmp_path / "tasks.py").write_text("OWNER = 'the user'\n")
    for package in ("flows", "infra", "data_contracts"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("OWNER = 'the user'\n")
    return tmp_path


@pytest.mark.slow
def test_the_wheel_runs_a_night_and_a_script_next_to_modules_of_the_same_names(installed: Path, project: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PREFECT_API_URL")}
    environment |= {"PREFECT_HOME": str(project / "prefect"), "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}"}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (project / "script.py").write_text(SCRIPT)
    (project / "own.py").write_text("import flows, tasks\nprint(tasks.OWNER, flows.OWNER)\n")
    (project / "late.py").write_text(
        "import tasks\ntry:\n    import nightshift\nexcept ImportError as e:\n    print(e)\n"
    )
    assert run("nightshift", "--version").startswith("nightshift ")
    assert run("nightshift", "run", "--settings", "night.toml").startswith("Promoted: release r0001-")
    mined, release, file = run("python", "script.py").splitlines()
    assert mined == "True True"
    assert release.startswith("r0001-")
    assert installed.parent in Path(file).parents
    assert run("python", "own.py") == "the user the user\n"
    assert "import nightshift first, or rename your module" in run("python", "late.py")
