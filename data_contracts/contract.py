"""Loads data contracts: Open Data Contract Standard files whose quality rules Great Expectations runs.

Contracts are trusted files of the project. The column name of a rule reaches SQL only after it was parsed into a
property of the table and a known measure.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from data_contracts.measures import Kind, Measured, parse_column
from data_contracts.statements import statement

FOLDER = Path(__file__).parent
# In the order of validation: qrels refer to passages and queries. Pairs are the positive qrels, with the text of the
# query and the split that the night uses. A refused pair is a refused row of qrels.
TABLES = ("passages", "queries", "qrels", "pairs")
CLICKS = "clicks"  # validated after the passages, and only if a source is a click log: it gives queries and qrels
JUDGMENTS = "judgments"  # the votes and judgments of a home; validated after the tables of the source
SOURCE_TABLE_OF = {
    **dict(zip(TABLES, TABLES, strict=True)),
    "pairs": "qrels",
    CLICKS: CLICKS,
    JUDGMENTS: JUDGMENTS,
}


class ContractError(Exception):
    """A contract that cannot be run. The message names the file and the rule. Never treated as "no bad rows"."""


class Severity(StrEnum):
    """What happens to a row that fails a rule. Contract files use ERROR and WARN."""

    ERROR = "error"  # the row is quarantined
    WARN = "warn"  # the row is counted and accepted
    MERGE = "merge"  # the row is merged with an earlier equal row


@dataclass(frozen=True)
class Rule:
    """One quality rule: a Great Expectations expectation over one measured column."""

    name: str
    description: str  # the problem of a row that fails the rule
    severity: Severity
    measured: Measured
    expectation: str
    kwargs: Mapping[str, Any]

    @property
    def threshold(self) -> str:
        """Return the allowed values in a few words: `1 to 512`, `at most 2000`, `0`, `present`."""
        low, high = self.kwargs.get("min_value"), self.kwargs.get("max_value")
        if low is not None or high is not None:
            return f"at most {high}" if low is None else f"at least {low}" if high is None else f"{low} to {high}"
        if "value_set" in self.kwargs:
            return " or ".join(map(str, self.kwargs["value_set"]))
        rest = {name: value for name, value in self.kwargs.items() if name != "column"}
        return json.dumps(rest) if rest else self.expectation.removeprefix("expect_column_values_to_").replace("_", " ")

    @property
    def statement(self) -> str:
        """Return what is true of every row that passes, as a sentence."""
        return statement(self.measured, self.expectation, self.kwargs, self.threshold)


@dataclass(frozen=True)
class Contract:
    """The contract of one table: its properties and rules."""

    table: str
    version: str
    file: Path
    properties: tuple[str, ...]
    key: tuple[str, ...]  # the properties that together identify a row
    foreign_keys: Mapping[str, tuple[str, str]]  # property -> the (table, property) that must contain its value
    rules: tuple[Rule, ...]

    @property
    def source_table(self) -> str:
        """Return the source table that the rows come from."""
        return SOURCE_TABLE_OF[self.table]

    def rules_of_kind(self, *kinds: Kind) -> list[Rule]:
        """Return the rules whose measures are of one of the `kinds`."""
        return [rule for rule in self.rules if rule.measured.kind in kinds]


def contract_file(table: str) -> Path:
    """Return the path of the contract of `table`."""
    return FOLDER / f"{table}.yaml"


def load_contract(file: Path) -> Contract:
    """Read and check the contract in `file`.

    Raises ContractError when the YAML violates the JSON schema of the standard (including misspelled keys), repeats a
    key, or has a rule without name, description, or severity, with another engine, or for an unknown column.
    """
    document = _read_document(file)
    if len(document.get("schema", [])) != 1:
        raise ContractError(f"{file.name}: `schema` must describe exactly one table")
    schema = document["schema"][0]
    properties = schema.get("properties", [])
    names = tuple(column["name"] for column in properties)
    entries = [*schema.get("quality", []), *(entry for column in properties for entry in column.get("quality", []))]
    if schema["name"] not in SOURCE_TABLE_OF:
        known = ", ".join(SOURCE_TABLE_OF)
        raise ContractError(f"{file.name}: unknown table {schema['name']!r}. Known tables: {known}")
    rules = tuple(_rule(entry, names, file) for entry in entries)
    if len({rule.name for rule in rules}) != len(rules):
        raise ContractError(f"{file.name}: two rules have the same name")
    foreign_keys = dict(_foreign_key(column, file) for column in properties if column.get("relationships"))
    for rule in rules:
        if rule.measured.measure == "known" and rule.measured.subject not in foreign_keys:
            raise ContractError(f"{file.name}, rule {rule.name}: its property has no `relationships`")
    keys = sorted(
        (column.get("primaryKeyPosition", 1), column["name"]) for column in properties if column.get("primaryKey")
    )
    return Contract(
        table=schema["name"],
        version=document["version"],
        file=file,
        properties=names,
        key=tuple(name for _, name in keys),
        foreign_keys=foreign_keys,
        rules=rules,
    )


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys, which PyYAML would overwrite silently."""

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


def _read_document(file: Path) -> dict[str, Any]:
    try:
        return _parse_document(file.name, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ContractError(f"{file.name}: cannot be read: {error}") from error


@cache  # a night loads each contract several times; no caller modifies the document
def _parse_document(name: str, text: str) -> dict[str, Any]:
    from jsonschema.exceptions import best_match

    document: dict[str, Any] = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    fault = best_match(_validator().iter_errors(document))
    if fault is not None:
        place = ".".join(map(str, fault.absolute_path)) or "the top level"
        raise ContractError(f"{name}: not a valid data contract at {place}: {fault.message}")
    return document


def _rule(entry: Mapping[str, Any], properties: tuple[str, ...], file: Path) -> Rule:
    name = entry.get("name", "")
    where = f"{file.name}, rule {name or entry}"
    if not name or not entry.get("description") or entry.get("severity") not in (Severity.ERROR, Severity.WARN):
        raise ContractError(f"{where}: needs a name, a description, and severity error or warn")
    if entry.get("type") != "custom" or entry.get("engine") != "greatExpectations":
        raise ContractError(f"{where}: only `type: custom` with `engine: greatExpectations` can be run")
    implementation = entry["implementation"]
    if not isinstance(implementation, dict) or set(implementation) != {"type", "kwargs"}:
        raise ContractError(f"{where}: `implementation` must have `type` and `kwargs`, and nothing else")
    kwargs = dict(implementation["kwargs"])
    if hiding := sorted({"mostly", "row_condition"} & set(kwargs)):
        raise ContractError(f"{where}: `{hiding[0]}` would hide bad rows. Set the allowed share in [data] max_refused.")
    measured = parse_column(str(kwargs.get("column")), properties)
    if measured is None:
        raise ContractError(f"{where}: column {kwargs.get('column')!r} is not a <property>_<measure> of this table")
    if measured.kind is Kind.COLLECTION and entry["severity"] == Severity.ERROR:
        raise ContractError(f"{where}: must have severity warn, because other tables are accepted before it is checked")
    merges = measured.measure == "repeats" and entry["severity"] == Severity.ERROR
    severity = Severity.MERGE if merges else Severity(entry["severity"])
    return Rule(name, entry["description"], severity, measured, implementation["type"], kwargs)


def _foreign_key(column: Mapping[str, Any], file: Path) -> tuple[str, tuple[str, str]]:
    table, _, name = str(column["relationships"][0]["to"]).partition(".")
    if table not in TABLES or not name:
        raise ContractError(f"{file.name}, property {column['name']}: `to` must name <table>.<property>")
    return column["name"], (table, name)
