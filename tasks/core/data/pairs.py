"""Turns documented definitions into query-passage pairs.

The construction of CodeSearchNet (Husain et al. 2019, arXiv:1909.09436): the first sentence of a docstring is what
somebody would ask for, the rest of the definition is what answers it. The sentence is taken out of the passage
wherever it stands.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.core.data.modules import Documented, Module, public_names

_MAX_TEXT = 2000  # characters; about four times what the encoder reads
_MIN_TEXT = 100
_WORDS = range(4, 41)
_MIN_LETTERS = 0.6  # share of letters and spaces that tells a sentence from a formula or a table
_STUBS = re.compile(r"^(deprecated|alias (for|of|to)|see |inherited|overridden|return self|internal|private|todo)", re.I)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(*])")
_CALL = re.compile(r"^[\w.]+\s*\(.*\)(\s*->.*)?$", re.S)  # a signature put before the summary
_ROLE = re.compile(r":[\w:]+:`(?:[^`<]*<)?[~!]?([^`>]*)>?`")
_MARKS = re.compile(r"`{1,2}|\*{1,2}(?=\w)|(?<=\w)\*{1,2}")


@dataclass(frozen=True)
class Pair:
    """One query and the passage that answers it."""

    module: str  # where it is defined: pairs of one module go into one split
    tier: int  # 0 exported, 1 methods of what is exported, 2 and 3 the same for what merely is public
    title: str  # the public name
    query: str
    text: str


def read_pairs(modules: Mapping[str, Module]) -> Iterator[Pair]:
    """The pairs of all public documented functions, classes and methods of one package, in a fixed order."""
    names = public_names(modules)
    for (source, name), (tier, called) in sorted(names.items()):
        module = modules[source]
        node = module.definitions[name]
        if (pair := _pair(module, node, called, 2 * tier)) is not None:
            yield pair
        if isinstance(node, ast.ClassDef):
            for method in _methods(node):
                if (pair := _pair(module, method, f"{called}.{method.name}", 2 * tier + 1)) is not None:
                    yield pair


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text: what near duplicates and leaks are found by."""
    return re.findall(r"[^\W_]+", text.lower())


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    found: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
    for one in node.body:
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and not one.name.startswith("_"):
            found.setdefault(one.name, one)  # a property and its setter share a name
    return list(found.values())


def _pair(module: Module, node: Documented, called: str, tier: int) -> Pair | None:
    doc = ast.get_docstring(node)
    if not doc or not isinstance(node.body[0], ast.Expr):
        return None
    summary = _summary(doc)
    query = _plain(summary)
    if not _is_question(query):
        return None
    parts = [_signature(module, node), doc, _rest(module, node)]
    text = "\n".join(part for part in (_without(summary, query, part) for part in parts) if part)
    text = _cut(text)
    if len(text) < _MIN_TEXT or _holds(f"{called} {text}", query):
        return None
    return Pair(module.name, tier, called, query, text)


def _summary(doc: str) -> str:
    paragraphs = re.split(r"\n\s*\n", doc.strip())
    first = paragraphs[1] if len(paragraphs) > 1 and _CALL.match(paragraphs[0]) else paragraphs[0]
    return _SENTENCE_END.split(" ".join(first.split()), maxsplit=1)[0]


def _plain(sentence: str) -> str:
    """Without markup: `:func:`~numpy.mean`` reads numpy.mean."""
    return _MARKS.sub("", _ROLE.sub(r"\1", sentence)).strip().rstrip(".:;,!").strip()


def _is_question(query: str) -> bool:
    if len(query.split()) not in _WORDS or _STUBS.match(query):
        return False
    letters = sum(character.isalpha() or character == " " for character in query)
    return letters / len(query) >= _MIN_LETTERS and not re.search(r"[{}%|=]|::|\.\. ", query)


def _signature(module: Module, node: Documented) -> str:
    head = _dedented(module.lines[node.lineno - 1 : node.body[0].lineno - 1])
    if isinstance(node, ast.ClassDef):
        made = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
        if made is not None:
            head += "\n" + _dedented(module.lines[made.lineno - 1 : made.body[0].lineno - 1])
    return head


def _rest(module: Module, node: Documented) -> str:
    """The code below the docstring; of a class its methods' names only, for each of them is a passage of its own."""
    if isinstance(node, ast.ClassDef):
        names = [one.name for one in _methods(node)]
        return f"Methods: {', '.join(names)}" if names else ""
    return _dedented(module.lines[node.body[0].end_lineno or 0 : node.end_lineno])


def _dedented(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip()


def _without(summary: str, query: str, part: str) -> str:
    """`part` without the summary sentence, however its lines are broken."""
    for sentence in (summary, query):
        pattern = r"\s+".join(re.escape(word) for word in sentence.split())
        part = re.sub(pattern + r"[.:;,!]?", "", part, flags=re.IGNORECASE)
    return re.sub(r"\n{3,}", "\n\n", part).strip()


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    return text[:_MAX_TEXT].rsplit(maxsplit=1)[0]


def _holds(text: str, query: str) -> bool:
    return f" {' '.join(words(query))} " in f" {' '.join(words(text))} "
