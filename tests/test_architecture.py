"""The one rule: imports run infra → flows → tasks → tasks/core → data_contracts, and nowhere else."""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["data_contracts", "tasks.core", "tasks", "flows", "infra"]  # each may import itself and those before it
SOURCES = [path for layer in ("data_contracts", "tasks", "flows", "infra") for path in (ROOT / layer).rglob("*.py")]
LONGEST = 300  # lines


def layer_of(module: str) -> int | None:
    """The number of the layer that a dotted name belongs to; the deeper name wins."""
    fitting = [n for n, name in enumerate(LAYERS) if module == name or module.startswith(f"{name}.")]
    return min(fitting) if fitting else None


def imports_of(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which layer it reaches"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_run_one_way(path: Path) -> None:
    own = layer_of(module_of(path))
    assert own is not None
    for name in imports_of(path):
        reached = layer_of(name)
        assert reached is None or reached <= own, f"{module_of(path)} imports {name} from a layer above its own"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_the_core_has_never_heard_of_prefect(path: Path) -> None:
    if layer_of(module_of(path)) in (0, 1):
        assert not [name for name in imports_of(path) if name.split(".")[0] in ("prefect", "prefect_ray")]


@pytest.mark.parametrize("path", [*SOURCES, *(ROOT / "tests").rglob("*.py")], ids=module_of)
def test_no_file_is_too_long_to_read_in_one_go(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def tracked() -> list[str]:
    """The files that git knows and that are there."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_what_a_function_raises_is_in_its_docstring(path: Path) -> None:
    """Our own errors, in public functions; a class or a file may say it for all of its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unsaid = [f"{where}: {name}" for where, said, raised in public_functions(tree, "") for name in raised - said]
    assert not unsaid, f"{path}: add `Raises …` to the docstring"


def public_functions(node: ast.AST, above: str) -> Iterator[tuple[str, set[str], set[str]]]:
    """Of each public function below `node`: its name, the words of its docstrings, and the errors of ours it raises."""
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
    raised = [one.exc for one in ast.walk(function) if isinstance(one, ast.Raise) and one.exc is not None]
    called = [one.func if isinstance(one, ast.Call) else one for one in raised]
    names = {one.id for one in called if isinstance(one, ast.Name)}
    return {name for name in names if name[0].isupper() and not hasattr(builtins, name)}


def test_packages_are_empty_so_that_importing_the_core_loads_no_orchestrator() -> None:
    assert not [path for path in SOURCES if path.name == "__init__.py" and path.read_text().strip()]


def test_the_top_level_is_what_its_owner_asked_for() -> None:
    allowed = {
        "flows",
        "tasks",
        "tests",
        "infra",
        "data_contracts",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
    }
    found = {name.split("/")[0] for name in tracked()}
    assert {name for name in found if not name.startswith(".")} <= allowed


def test_the_layers_catch_a_wrong_arrow() -> None:
    core, wrapper = layer_of("tasks.core.base.files"), layer_of("tasks.policy")
    assert core is not None
    assert wrapper is not None
    assert core < wrapper
    assert layer_of("flows.nightly") == 3
    assert layer_of("numpy.linalg") is None
