"""Reads installed Python sources without importing them: what a module defines, and by which name people know it."""

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
    """A function, a method or a class, as text. The syntax tree is not kept: all trees together are a gigabyte."""

    name: str
    doc: str | None
    head: str  # the lines from `def` or `class` down to the docstring; of a class `__init__`'s as well
    rest: str  # the code below the docstring; empty for a class
    methods: tuple[Definition, ...] = ()  # public ones


@dataclass
class Module:
    """The top level of one source file."""

    name: str
    is_package: bool
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> (module, name there)
    stars: list[str] = field(default_factory=list)  # modules of which everything is imported
    listed: tuple[str, ...] | None = None  # __all__, when it is written out


def read_modules(name: str, root: Path, *, only_public: bool = False) -> dict[str, Module]:
    """Parse the sources under `root`, the folder of the package `name` (empty for the standard library).

    Tests, vendored code and files that do not parse are left out; `only_public` leaves out private modules too.
    """
    modules: dict[str, Module] = {}
    with _no_collector():
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


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without the garbage collector: it takes a third of the time, and syntax trees hold no cycles it could free."""
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
        return None  # a template, another version's syntax: nothing to document
    # Split as the parser counts lines: at \n only (reading text made it the one line end); str.splitlines also
    # splits at form feeds, and ast.get_source_segment splits the whole file again for every definition.
    lines = source.split("\n")
    module = Module(name, is_package)
    for node in _statements(tree.body):
        if isinstance(node, _Function | ast.ClassDef):
            _note_definition(module.definitions, node, lines)
        elif isinstance(node, ast.ImportFrom):
            _note_import(module, node)
        else:
            _note_list(module, node)
    return module


def _note_definition(found: dict[str, Definition], node: _Function | ast.ClassDef, lines: list[str]) -> None:
    """Of several definitions of one name the first documented one counts: overloads come without a docstring."""
    if node.name.startswith("_") or (node.name in found and found[node.name].doc is not None):
        return
    doc = ast.get_docstring(node)
    head = _between(lines, node.lineno, node.body[0].lineno)
    if not isinstance(node, ast.ClassDef):
        below = node.body[0].end_lineno or node.lineno
        found[node.name] = Definition(node.name, doc, head, _between(lines, below + 1, (node.end_lineno or below) + 1))
        return
    methods: dict[str, Definition] = {}
    for one in node.body:
        if isinstance(one, _Function) and one.name == "__init__":
            head += "\n" + _between(lines, one.lineno, one.body[0].lineno)
        elif isinstance(one, _Function):
            _note_definition(methods, one, lines)
    found[node.name] = Definition(node.name, doc, head, "", tuple(methods.values()))


def _between(lines: list[str], first: int, end: int) -> str:
    """Lines `first` (from 1) up to `end`, without it, moved to the left margin."""
    return textwrap.dedent("\n".join(lines[first - 1 : end - 1])).strip()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if TYPE_CHECKING` and `try: import`."""
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


def _note_list(module: Module, node: ast.stmt) -> None:
    """`__all__ = …` and `__all__ += …`; None again when a part of it is only known at run time."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
        return
    found = _strings(getattr(node, "value", None))
    if isinstance(node, ast.AugAssign):
        found = None if found is None or module.listed is None else (*module.listed, *found)
    module.listed = found


def _strings(value: ast.expr | None) -> tuple[str, ...] | None:
    try:
        listed = ast.literal_eval(value) if value is not None else None
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
