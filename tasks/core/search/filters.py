"""Filters on passage fields, as Milvus expressions that no value can break out of.

Values enter an expression only as quoted literals, escaped by the few escapes that milvus-lite and a server read
alike; prefixes become ranges, so that only `contains` needs a pattern, and there every character with a meaning of
its own becomes "any one character" and the hits are checked again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tasks.core.base.errors import BadUsage
from tasks.core.base.plain_text import check_text
from tasks.core.base.section import Section

FIELDS = ("passage_id", "title", "text")
LONGEST = 1000  # characters of a value
MOST = 1000  # values of one rule
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_WILD = str.maketrans(dict.fromkeys("%_\\", "_"))
_LAST = 0x10FFFF  # the last code point


Value = Annotated[str, StringConstraints(max_length=LONGEST), AfterValidator(check_text)]
Part = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(check_text)]
Values = Annotated[tuple[Value, ...], Field(min_length=1, max_length=MOST)]


class Rule(Section):
    """What a field must be; all that are given hold together. Comparisons are exact: case counts."""

    model_config = ConfigDict(populate_by_name=True)

    one_of: Values | None = Field(None, alias="in", description="the field is one of these")
    not_in: Values | None = Field(None, description="the field is none of these")
    prefix: Part | None = Field(None, description="the field begins with this")
    contains: Part | None = Field(None, description="the field holds this; a server needs Milvus 2.4 or newer for it")

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if not self.model_fields_set:
            raise ValueError("give at least one of: in, not_in, prefix, contains")
        return self


class Filters(Section):
    """Rules on passage fields; a passage must keep all of them. `text` is what Milvus holds: its first 65,535 bytes."""

    passage_id: Rule | None = None
    title: Rule | None = None
    text: Rule | None = None

    @classmethod
    def read(cls, given: Filters | Mapping[str, Any] | None) -> Filters:
        """From plain data, such as {"title": {"prefix": "pandas."}}. Raises BadUsage naming what is wrong."""
        if isinstance(given, Filters):
            return given
        try:
            return cls.model_validate(dict(given or {}))
        except (ValidationError, TypeError, ValueError) as error:
            raise BadUsage(f'filters: {_said(error)}. An example: {{"title": {{"prefix": "pandas."}}}}') from error

    def expression(self) -> str:
        """The Milvus expression; empty when there is no rule."""
        return " and ".join(part for name, rule in self._rules() for part in _parts(name, rule))

    @property
    def exact(self) -> bool:
        """Whether the expression lets through nothing that `keeps` refuses."""
        return all(
            rule.contains is None or rule.contains == rule.contains.translate(_WILD) for _, rule in self._rules()
        )

    def keeps(self, fields: Mapping[str, Any]) -> bool:
        """Whether a hit that the expression let through holds what `contains` asks for, letter by letter."""
        return all(rule.contains is None or rule.contains in (fields[name] or "") for name, rule in self._rules())

    def _rules(self) -> Iterator[tuple[str, Rule]]:
        for name in FIELDS:
            if (rule := getattr(self, name)) is not None:
                yield name, rule


def _parts(name: str, rule: Rule) -> Iterator[str]:
    if rule.one_of is not None:
        yield f"{name} in [{', '.join(map(_literal, rule.one_of))}]"
    if rule.not_in is not None:
        yield f"{name} not in [{', '.join(map(_literal, rule.not_in))}]"
    if rule.prefix is not None:
        yield f"{name} >= {_literal(rule.prefix)}"
        if (end := _after(rule.prefix)) is not None:
            yield f"{name} < {_literal(end)}"
    if rule.contains is not None:
        yield f"{name} like {_literal('%' + rule.contains.translate(_WILD) + '%')}"


def _literal(value: str) -> str:
    return f'"{value.translate(_ESCAPES)}"'


def _after(prefix: str) -> str | None:
    """The least text above all that begin with `prefix`, by bytes of UTF-8, which order as code points do."""
    stem = prefix.rstrip(chr(_LAST))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def _said(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    unknown = f"no such field or rule; fields are {', '.join(FIELDS)}, rules are in, not_in, prefix, contains"
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {unknown if fault['type'] == 'extra_forbidden' else fault['msg']}"
        for fault in error.errors(include_input=False)
    )
