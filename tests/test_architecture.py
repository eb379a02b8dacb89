"""The one rule: imports run one way, between the top-level packages and between the layers of the core."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
# In both lists an entry may import itself and the entries before it.
PACKAGES = ["data_contracts", "tasks.core", "tasks", "flows", "infra"]
LAYERS = ["base", "text", "snapshot", "encoder", "sources", "ingest", "embedding", "retrieval", "mining", "evaluation",
          "training", "synthesis", "release", "search", "drift", "report", "forget"]  # fmt: skip
API = ROOT / "tasks" / "nightshift"  # imported as `nightshift`; internal code never imports it
FOLDERS = ("data_contracts", "tasks", "flows", "infra")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST = 300  # lines of a Python file
USUAL = 90  # lines of the median Python file, tests not counted
MOST_TO_OPEN = 4  # files that answer a question of the guide
# Modules of the core with functions that take all settings. Other functions take `home`, inputs, and their section.
WHOLE_TREE = {
    "tasks.core.drift.watch": "reads home and two sections, in addition to five inputs",
    "tasks.core.evaluation.probe": "embeds, evaluates, and compares",
    "tasks.core.forget.forget": "publishes, and opens the store",
    "tasks.core.forget.rebuild": "publishes",
    "tasks.core.ingest.ingest": "needs the paths as they are written in the settings file",
    "tasks.core.release.publish": "records all settings with the release",
    "tasks.core.release.reindex": "publishes",
    "tasks.core.release.repair": "publishes, and rebuilds the BM25 index",
    "tasks.core.report.compare": "embeds, searches, evaluates, and compares",
    "tasks.core.report.forecast": "forecasts every step of a night",
    "tasks.core.report.night": "records all settings of the night",
    "tasks.core.search.export": "opens a release, and evaluates it",
    "tasks.core.search.http": "opens the service",
    "tasks.core.search.named_releases": "opens a searcher",
    "tasks.core.search.searcher": "opens ledger, collection, and BM25 index",
    "tasks.core.search.service": "opens searchers",
    "tasks.core.search.shadow": "opens searchers",
    "tasks.core.synthesis.synthesize": "searches, embeds, and filters",
    "tasks.core.training.budget": "chooses settings of three sections",
    "tasks.core.training.pace": "plans from all settings of a training",
    "tasks.core.training.trials": "trains",
    "tasks.core.training.mine_only": "reads the source, searches, embeds, and mines",
    "tasks.core.training.trainer": "trains, embeds, and evaluates",
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def package_of(module: str) -> int | None:
    """The place of a module's package in PACKAGES; the deeper name wins."""
    places = [place for place, name in enumerate(PACKAGES) if module == name or module.startswith(f"{name}.")]
    return min(places, default=None)


def layer_of(module: str) -> int | None:
    """The place of a module's layer in LAYERS; None outside the core."""
    parts = module.split(".")
    return LAYERS.index(parts[2]) if parts[:2] == ["tasks", "core"] and parts[2:3] else None


def imports_of(source: str) -> list[str]:
    imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides which layer it reaches"
            imports += [f"{node.module}.{alias.name}" for alias in node.names]
    return imports


def wrong_arrows(module: str, source: str) -> list[str]:
    """The imports of `source` that run up: to a later package, a later layer, or the public API."""
    wrong = []
    for name in imports_of(source):
        for place_of in (package_of, layer_of):
            own, reached = place_of(module), place_of(name)
            if own is not None and reached is not None and reached > own:
                wrong.append(f"{module} imports {name}")
        if name.split(".")[0] == API.name or name.startswith(f"tasks.{API.name}"):
            wrong.append(f"{module} imports {name}")
    return wrong


def test_imports_run_one_way() -> None:
    internal = [path for path in SOURCES if API not in path.parents]
    assert [arrow for path in internal for arrow in wrong_arrows(module_of(path), path.read_text())] == []


def test_every_folder_of_the_core_is_a_layer() -> None:
    folders = {path.name for path in (ROOT / "tasks" / "core").iterdir() if list(path.glob("*.py"))}
    assert folders == set(LAYERS)
    assert [path.name for path in (ROOT / "tasks" / "core").glob("*.py")] == ["__init__.py"]


def test_a_wrong_arrow_is_caught_in_every_layer_and_package() -> None:
    for lower, upper in pairwise(LAYERS):
        up, down = f"from tasks.core.{upper}.x import y", f"from tasks.core.{lower}.x import y"
        assert wrong_arrows(f"tasks.core.{lower}.a", up), lower
        assert not wrong_arrows(f"tasks.core.{upper}.a", down), upper
    assert not wrong_arrows("tasks.core.base.a", "import numpy.linalg")
    for lower, upper in pairwise(PACKAGES):
        assert wrong_arrows(f"{lower}.base.a", f"from {upper}.base import x"), lower
    assert wrong_arrows("flows.nightly", "import nightshift")


def test_the_core_does_not_import_prefect() -> None:
    core = [path for path in SOURCES if package_of(module_of(path)) in (0, 1) or API in path.parents]
    names = [(path, name) for path in core for name in imports_of(path.read_text())]
    assert [(path, name) for path, name in names if name.split(".")[0] in ("prefect", "prefect_ray")] == []


def takes_all_settings(source: str) -> bool:
    """Whether a function of `source` has a parameter that holds the whole settings tree."""
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    parameters = [node for function in functions for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    return any(
        re.search(r"\bSettings\b", ast.unparse(parameter.annotation))
        for parameter in parameters
        if parameter.annotation is not None
    )


def test_only_listed_modules_of_the_core_take_all_settings() -> None:
    core = {module_of(path): path.read_text() for path in (ROOT / "tasks" / "core").rglob("*.py")}
    assert {module for module, source in core.items() if takes_all_settings(source)} == set(WHOLE_TREE)
    assert takes_all_settings("def f(home: Path, *, settings: Settings | None = None): ...")
    assert not takes_all_settings("def f(home: Path, settings: DriftSettings) -> Settings: ...")


def test_no_file_is_too_long_to_read_in_one_go() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (*SOURCES, *TESTS)}
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}
    assert median(lines[path] for path in SOURCES) <= USUAL


def test_the_guide_answers_each_question_in_a_few_files_that_exist() -> None:
    guide = (ROOT / "infra" / "docs" / "architecture.md").read_text(encoding="utf-8")
    answers = [line.split("|")[2] for line in guide.partition("## Where to look")[2].splitlines() if "|" in line][2:]
    files = [re.findall(r"`([\w/.]+\.(?:py|jinja))`", answer) for answer in answers]
    alternatives = [answer.count("` or `") for answer in answers]
    assert all(0 < len(names) - other <= MOST_TO_OPEN for names, other in zip(files, alternatives, strict=True))
    folders = (ROOT / "tasks" / "core", ROOT)
    missing = [name for names in files for name in names if not any((folder / name).is_file() for folder in folders)]
    assert missing == []


def tracked() -> list[str]:
    """The files that git knows and that exist."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.splitlines() if (ROOT / name).is_file()]


def test_the_docstring_of_a_public_function_lists_our_errors_that_it_raises() -> None:
    """A class or a file may list them for all of its functions."""
    missing = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function, documented, raised in public_functions(tree, ""):
            missing += [f"{path}: {function}: {error}" for error in raised - documented]
    assert missing == []


def public_functions(node: ast.AST, above: str) -> Iterator[tuple[str, set[str], set[str]]]:
    """Yield the name, the docstring words, and our raised errors of each public function below `node`."""
    for child in ast.iter_child_nodes(node):
        documented = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if not documented or child.name.startswith("_"):
            continue
        module = ast.get_docstring(node) if isinstance(node, ast.Module) else ""
        text = f"{above} {module} {ast.get_docstring(child)}"
        if isinstance(child, ast.ClassDef):
            yield from public_functions(child, text)
        else:
            yield child.name, set(re.findall(r"\w+", text)), errors_raised_in(child)


def errors_raised_in(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc is not None]
    called = [error.func if isinstance(error, ast.Call) else error for error in raised]
    names = {error.id for error in called if isinstance(error, ast.Name)}
    return {name for name in names if name[0].isupper() and not hasattr(builtins, name)}


def test_packages_are_empty_so_that_importing_the_core_loads_no_orchestrator() -> None:
    filled = [path for path in SOURCES if path.name == "__init__.py" and path.read_text().strip()]
    assert filled == [API / "__init__.py"]


def test_the_top_level_contains_only_the_prescribed_folders() -> None:
    allowed = {*FOLDERS, "tests", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}
    top = {name.split("/")[0] for name in tracked()}
    assert {name for name in top if not name.startswith(".")} <= allowed
