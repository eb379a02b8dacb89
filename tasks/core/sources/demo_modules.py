"""Parses installed Python sources without importing them: definitions, and the public names they are known by."""

from __future__ import annotations

import ast
import gc
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_SKIPPED = {
    "tests", "test", "testing", "conftest", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages",
    "externals", "extern", "vendor", "distutils", "vendored", "_vendor", "_vendored", "third_party", "deprecated",
}  # fmt: skip
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A function, method, or class as text. Syntax trees are not kept: together they take a gigabyte."""

    name: str
    doc: str | None
    head: str  # the lines from `def` or `class` to the docstring; for a class, also those of `__init__`
    rest: str  # the code after the docstring; empty for a class
    methods: tuple[Definition, ...] = ()  # public methods


@dataclass
class Module:
    """The top level of one source file."""

    name: str
    is_package: bool
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> (module, name there)
    stars: list[str] = field(default_factory=list)  # modules imported with *
    listed: tuple[str, ...] | None = None  # __all__, if it is a literal


def read_modules(name: str, root: Path, *, only_public: bool = False) -> dict[str, Module]:
    """Parse the sources under `root`, the folder of the package `name` (empty for the standard library).

    Skips tests, vendored code, and files that do not parse; `only_public` also skips private modules.
    """
    modules: dict[str, Module] = {}
    with _garbage_collector_off():
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
    """Return (defining module, name) -> (tier, public name) for all public definitions of `modules`.

    Tier 0 is exported (by the `__init__` of a package, or listed in `__all__`); tier 1 is any other name in a public
    module. Of several public names, the one with the fewest dots is used.
    """
    best: dict[tuple[str, str], tuple[int, int, int, str]] = {}
    for module in modules.values():
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        for name in _offered_names(module, modules):
            origin = _resolve(module.name, name, modules, frozenset())
            if origin is None or name.startswith("_"):
                continue
            exported = module.is_package or (module.listed is not None and name in module.listed)
            public_name = f"{module.name}.{name}"
            rank = (
                0 if exported or "." not in module.name else 1,
                public_name.count("."),
                len(public_name),
                public_name,
            )
            best[origin] = min(best.get(origin, rank), rank)
    return {origin: (tier, public_name) for origin, (tier, _, _, public_name) in best.items()}


@contextmanager
def _garbage_collector_off() -> Iterator[None]:
    """Disable the garbage collector: it takes a third of the time, and syntax trees have no cycles to free."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
        return None  # a template, or the syntax of another Python version
    # Split at \n only, as the parser counts lines (read_text normalized line ends). str.splitlines also splits at form
    # feeds, and ast.get_source_segment splits the whole file again for every definition.
    lines = source.split("\n")
    module = Module(name, is_package)
    for node in _statements(tree.body):
        if isinstance(node, _Function | ast.ClassDef):
            _note_definition(module.definitions, node, lines)
        elif isinstance(node, ast.ImportFrom):
            _note_import(module, node)
        else:
            _note_exports(module, node)
    return module


def _note_definition(definitions: dict[str, Definition], node: _Function | ast.ClassDef, lines: list[str]) -> None:
    """Add a definition. Of several with one name, keep the first with a docstring: overloads have none."""
    if node.name.startswith("_") or (node.name in definitions and definitions[node.name].doc is not None):
        return
    doc = ast.get_docstring(node)
    head = _between(lines, node.lineno, node.body[0].lineno)
    if not isinstance(node, ast.ClassDef):
        below = node.body[0].end_lineno or node.lineno
        rest = _between(lines, below + 1, (node.end_lineno or below) + 1)
        definitions[node.name] = Definition(node.name, doc, head, rest)
        return
    methods: dict[str, Definition] = {}
    for statement in node.body:
        if isinstance(statement, _Function) and statement.name == "__init__":
            head += "\n" + _between(lines, statement.lineno, statement.body[0].lineno)
        elif isinstance(statement, _Function):
            _note_definition(methods, statement, lines)
    definitions[node.name] = Definition(node.name, doc, head, "", tuple(methods.values()))


def _between(lines: list[str], first: int, end: int) -> str:
    """Return the lines from `first` (counted from 1) to before `end`, dedented."""
    return textwrap.dedent("\n".join(lines[first - 1 : end - 1])).strip()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield top-level statements, including those under `if TYPE_CHECKING` and `try: import`."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
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


def _note_exports(module: Module, node: ast.stmt) -> None:
    """Read `__all__ = …` and `__all__ += …`; None if a part is only known at run time."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
        return
    names = _strings(getattr(node, "value", None))
    if isinstance(node, ast.AugAssign):
        names = None if names is None or module.listed is None else (*module.listed, *names)
    module.listed = names


def _strings(value: ast.expr | None) -> tuple[str, ...] | None:
    try:
        listed = ast.literal_eval(value) if value is not None else None
    except (ValueError, TypeError):
        return None  # computed at run time
    return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list | tuple) else None


def _offered_names(module: Module, modules: Mapping[str, Module]) -> list[str]:
    """Return the names that a module offers: `__all__`, or else its definitions and, for a package, its imports."""
    if module.listed is not None:
        return list(module.listed)
    defined = list(module.definitions)
    if not module.is_package:
        return defined
    return [*defined, *module.imports, *_star_names(module, modules, frozenset())]


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
    """Return (module, name) where `name` of module `source` is defined; None if it is outside of `modules`."""
    module = modules.get(source)
    if module is None or (source, name) in seen:
        return None
    if name in module.definitions:
        return source, name
    seen |= {(source, name)}
    if name in module.imports:
        return _resolve(*module.imports[name], modules, seen)
    for star in module.stars:
        if (origin := _resolve(star, name, modules, seen)) is not None:
            return origin
    return None
