"""Reads a contract: an Open Data Contract Standard file whose quality rules Great Expectations runs.

Contracts are trusted files of the project: a rule's column name reaches SQL (only after it was taken
apart into a property of the table and a known measure).
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from data_contracts.measures import Kind, Measured, take_apart
from data_contracts.statements import statement

FOLDER = Path(__file__).parent
# In the order in which they are judged: qrels point to the first two, and pairs are qrels that are positive, with the
# query's text and the split that the night uses them in. A refused pair is a refused row of qrels.
TABLES = ("passages", "queries", "qrels", "pairs")
ROWS_OF = {"passages": "passages", "queries": "queries", "qrels": "qrels", "pairs": "qrels"}
SEVERITIES = ("error", "warn")
MERGE = "merge"  # the severity of a rule about equal copies: the row is accepted as the same row as an earlier one


class ContractError(Exception):
    """A contract that cannot be run as written; the message names file and rule. Never treated as "no bad rows"."""


@dataclass(frozen=True)
class Rule:
    """One quality rule: a Great Expectations expectation over one measured column."""

    name: str
    description: str  # what is wrong with a row that fails it
    severity: str  # error: the row goes to quarantine; warn: it is counted; merge: it is an equal copy of another row
    measured: Measured
    expectation: str
    kwargs: Mapping[str, Any]

    @property
    def threshold(self) -> str:
        """What a value must be, in a few words: `1 to 512`, `at most 2000`, `0`, `present`."""
        low, high = self.kwargs.get("min_value"), self.kwargs.get("max_value")
        if low is not None or high is not None:
            return f"at most {high}" if low is None else f"at least {low}" if high is None else f"{low} to {high}"
        if "value_set" in self.kwargs:
            return " or ".join(map(str, self.kwargs["value_set"]))
        rest = {name: value for name, value in self.kwargs.items() if name != "column"}
        return json.dumps(rest) if rest else self.expectation.removeprefix("expect_column_values_to_").replace("_", " ")

    @property
    def statement(self) -> str:
        """What is true of everything that passes, in words."""
        return statement(self.measured, self.expectation, self.kwargs, self.threshold)


@dataclass(frozen=True)
class Contract:
    """What one table must keep."""

    table: str
    version: str
    file: Path
    properties: tuple[str, ...]
    key: tuple[str, ...]  # the properties that together name a row
    foreign: Mapping[str, tuple[str, str]]  # property -> (table, property) that it must be found in
    rules: tuple[Rule, ...]

    @property
    def rows_of(self) -> str:
        """The table of the source whose rows these are."""
        return ROWS_OF[self.table]

    def of_kind(self, *kinds: Kind) -> list[Rule]:
        """The rules whose measures are of `kinds`."""
        return [rule for rule in self.rules if rule.measured.kind in kinds]


def contract_file(table: str) -> Path:
    """Where the contract of `table` lies."""
    return FOLDER / f"{table}.yaml"


def load_contract(file: Path) -> Contract:
    """Read and check the contract in `file`.

    Raises ContractError when the YAML breaks the standard's JSON schema (a misspelt key included), repeats a key,
    or has a rule without name, description or severity, with another engine, or over an unknown column.
    """
    document = _checked(file)
    if len(document.get("schema", [])) != 1:
        raise ContractError(f"{file.name}: a contract here describes exactly one table under `schema`")
    schema = document["schema"][0]
    properties = schema.get("properties", [])
    names = tuple(one["name"] for one in properties)
    entries = [*schema.get("quality", []), *(entry for one in properties for entry in one.get("quality", []))]
    if schema["name"] not in TABLES:
        raise ContractError(f"{file.name}: table {schema['name']!r} is none of {', '.join(TABLES)}")
    rules = tuple(_rule(entry, names, file) for entry in entries)
    if len({rule.name for rule in rules}) != len(rules):
        raise ContractError(f"{file.name}: two rules have the same name")
    foreign = dict(_foreign(one, file) for one in properties if one.get("relationships"))
    if lost := [rule.name for rule in rules if rule.measured.measure == "known" and rule.measured.of not in foreign]:
        raise ContractError(f"{file.name}, rule {lost[0]}: its property has no `relationships` to look in")
    keys = sorted((one.get("primaryKeyPosition", 1), one["name"]) for one in properties if one.get("primaryKey"))
    return Contract(
        table=schema["name"],
        version=document["version"],
        file=file,
        properties=names,
        key=tuple(name for _, name in keys),
        foreign=foreign,
        rules=rules,
    )


class _OneKeyOnce(yaml.SafeLoader):
    """A safe loader that refuses a repeated key instead of quietly keeping the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = [key.value for key, _ in node.value]
        if repeated := {key for key in seen if seen.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"repeated key {min(repeated)!r}", node.start_mark)
        return super().construct_mapping(node, deep)


@cache
def _validator() -> Any:
    import jsonschema

    text = (resources.files("open_data_contract_standard") / "schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    return jsonschema.validators.validator_for(schema)(schema)


def _checked(file: Path) -> dict[str, Any]:
    try:
        return _document(file.name, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(f"{file.name}: cannot be read: {error}") from error


@cache  # a night asks for each contract several times; nobody changes what is returned
def _document(name: str, text: str) -> dict[str, Any]:
    from jsonschema.exceptions import best_match

    document: dict[str, Any] = yaml.load(text, Loader=_OneKeyOnce)  # noqa: S506 - a SafeLoader
    fault = best_match(_validator().iter_errors(document))
    if fault is not None:
        where = ".".join(map(str, fault.absolute_path)) or "the top level"
        raise ContractError(f"{name}: not a valid data contract at {where}: {fault.message}")
    return document


def _rule(entry: Mapping[str, Any], properties: tuple[str, ...], file: Path) -> Rule:
    name = entry.get("name", "")
    where = f"{file.name}, rule {name or entry}"
    if not name or not entry.get("description") or entry.get("severity") not in SEVERITIES:
        raise ContractError(f"{where}: needs a name, a description, and severity error or warn")
    if entry.get("type") != "custom" or entry.get("engine") != "greatExpectations":
        raise ContractError(f"{where}: only `type: custom` with `engine: greatExpectations` can be run here")
    implementation = entry["implementation"]
    if not isinstance(implementation, dict) or set(implementation) != {"type", "kwargs"}:
        raise ContractError(f"{where}: `implementation` holds `type` and `kwargs`, nothing else")
    kwargs = dict(implementation["kwargs"])
    if hiding := sorted({"mostly", "row_condition"} & set(kwargs)):
        raise ContractError(f"{where}: `{hiding[0]}` would hide bad rows; the share allowed is [data] max_refused")
    measured = take_apart(str(kwargs.get("column")), properties)
    if measured is None:
        raise ContractError(f"{where}: column {kwargs.get('column')!r} is no <property>_<measure> of this table")
    if measured.kind is Kind.COLLECTION and entry["severity"] == "error":
        raise ContractError(f"{where}: can only warn, for other tables were accepted before it is known")
    merges = measured.measure == "repeats" and entry["severity"] == "error"
    severity = MERGE if merges else entry["severity"]
    return Rule(name, entry["description"], severity, measured, implementation["type"], kwargs)


def _foreign(one: Mapping[str, Any], file: Path) -> tuple[str, tuple[str, str]]:
    table, _, name = str(one["relationships"][0]["to"]).partition(".")
    if table not in TABLES or not name:
        raise ContractError(f"{file.name}, property {one['name']}: `to` must name <table>.<property>")
    return one["name"], (table, name)
