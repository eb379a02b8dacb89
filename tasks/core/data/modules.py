"""Reads installed Python sources without importing them: what a module defines, and by which name people know it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SKIPPED = {
    "tests", "test", "testing", "conftest", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages",
    "externals", "extern", "vendor", "distutils", "vendored", "_vendor", "_vendored", "third_party", "deprecated",
}  # fmt: skip
_NOTHING = ast.Module([], [])
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Module:
    """The top level of one source file."""

    name: str
    is_package: bool
    lines: list[str]
    definitions: dict[str, Documented] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> (module, name there)
    stars: list[str] = field(default_factory=list)  # modules of which everything is imported
    listed: tuple[str, ...] | None = None  # __all__, when it is written out


def read_modules(name: str, root: Path, *, only_public: bool = False) -> dict[str, Module]:
    """Parse the sources under `root`, the folder of the package `name` (empty for the standard library).

    Tests, vendored code and files that do not parse are left out; `only_public` leaves out private modules too.
    """
    modules: dict[str, Module] = {}
    for file in _sources(root):
        parts = file.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        parts = parts[:-1] if is_package else parts
        if only_public and any(part.startswith("_") for part in parts):
            continue
        dotted = ".".join((*([name] if name else []), *parts))
        if (module := _parse(dotted, is_package, file)) is not None:
            modules[dotted] = module
    return modules


def public_names(modules: Mapping[str, Module]) -> dict[tuple[str, str], tuple[int, str]]:
    """(defining module, name) -> (tier, the name a person would know), for what `modules` show to the public.

    Tier 0 is exported (by a package's `__init__`, or listed in `__all__`), tier 1 merely lies in a public module. Of
    several public names the one with the fewest dots is taken.
    """
    best: dict[tuple[str, str], tuple[int, int, int, str]] = {}
    for module in modules.values():
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        for name in _shown(module, modules):
            origin = _resolve(module.name, name, modules, frozenset())
            if origin is None or name.startswith("_"):
                continue
            exported = module.is_package or (module.listed is not None and name in module.listed)
            called = f"{module.name}.{name}"
            rank = (0 if exported or "." not in module.name else 1, called.count("."), len(called), called)
            best[origin] = min(best.get(origin, rank), rank)
    return {origin: (tier, called) for origin, (tier, _, _, called) in best.items()}


def _sources(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.stem in _SKIPPED or path.name.startswith((".", "test_")) or path.stem.endswith("_test"):
            continue
        if path.is_dir():
            yield from _sources(path)
        elif path.suffix == ".py":
            yield path


def _parse(name: str, is_package: bool, file: Path) -> Module | None:
    try:
        source = file.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None  # a template, another version's syntax: nothing to document
    # Split as the parser counts lines: at \n only; str.splitlines also splits at form feeds.
    module = Module(name, is_package, source.replace("\r\n", "\n").split("\n"))
    for node in _statements(tree.body):
        if isinstance(node, Documented):
            if ast.get_docstring(module.definitions.get(node.name, _NOTHING)) is None:  # overloads come without one
                module.definitions[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            _note_import(module, node)
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            module.listed = _strings(node.value)
    return module


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if TYPE_CHECKING` and `try: import`."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from _statements([*node.body, *node.orelse])
        else:
            yield node


def _note_import(module: Module, node: ast.ImportFrom) -> None:
    parts = module.name.split(".")
    base = parts[: len(parts) - node.level + (1 if module.is_package else 0)] if node.level else []
    source = ".".join((*base, *([node.module] if node.module else [])))
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.imports[alias.asname or alias.name] = (source, alias.name)


def _strings(value: ast.expr) -> tuple[str, ...] | None:
    try:
        listed = ast.literal_eval(value)
    except (ValueError, TypeError):
        return None  # put together at run time
    return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list | tuple) else None


def _shown(module: Module, modules: Mapping[str, Module]) -> list[str]:
    """Names that the module offers: its `__all__`; else its own, and, in a package, what its `__init__` imports."""
    if module.listed is not None:
        return list(module.listed)
    own = list(module.definitions)
    if not module.is_package:
        return own
    return [*own, *module.imports, *_star_names(module, modules, frozenset())]


def _star_names(module: Module, modules: Mapping[str, Module], seen: frozenset[str]) -> Iterator[str]:
    for source in module.stars:
        other = modules.get(source)
        if other is None or source in seen:
            continue
        if other.listed is not None:
            yield from other.listed
        else:
            yield from (name for name in (*other.definitions, *other.imports) if not name.startswith("_"))
            yield from _star_names(other, modules, seen | {source})


def _resolve(
    source: str, name: str, modules: Mapping[str, Module], seen: frozenset[tuple[str, str]]
) -> tuple[str, str] | None:
    """Where `name`, as seen in module `source`, is defined; None when that is not in these sources."""
    module = modules.get(source)
    if module is None or (source, name) in seen:
        return None
    if name in module.definitions:
        return source, name
    seen |= {(source, name)}
    if name in module.imports:
        return _resolve(*module.imports[name], modules, seen)
    for star in module.stars:
        if (found := _resolve(star, name, modules, seen)) is not None:
            return found
    return None
