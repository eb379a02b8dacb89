"""Filters on passage fields, translated to Milvus expressions that are safe against injection.

Values appear in an expression only as quoted literals. They are escaped with the few escapes that milvus-lite and the
Milvus server both read. Prefixes become ranges, so only `contains` needs a LIKE pattern. There every wildcard character
becomes "any character", and the hits are checked again here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tasks.core.base.errors import BadUsage
from tasks.core.base.plain_text import check_text
from tasks.core.base.section import Section
from tasks.core.release.expressions import quote

FIELDS = ("passage_id", "title", "text")
LONGEST = 1000  # characters of a value
MOST = 1000  # values per rule
_WILD = str.maketrans(dict.fromkeys("%_\\", "_"))
_LAST = 0x10FFFF  # the last code point


Value = Annotated[str, StringConstraints(max_length=LONGEST), AfterValidator(check_text)]
Part = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(check_text)]
Values = Annotated[tuple[Value, ...], Field(min_length=1, max_length=MOST)]


class Rule(Section):
    """Conditions on one field; all given conditions must be met. Comparisons are case-sensitive."""

    model_config = ConfigDict(populate_by_name=True)

    one_of: Values | None = Field(None, alias="in", description="the field equals one of these values")
    not_in: Values | None = Field(None, description="the field equals none of these values")
    prefix: Part | None = Field(None, description="the field begins with this text")
    contains: Part | None = Field(
        None, description="the field contains this text; a Milvus server must be 2.4 or newer"
    )

    @model_validator(mode="after")
    def _check_not_empty(self) -> Rule:
        if not self.model_fields_set:
            raise ValueError("give at least one of: in, not_in, prefix, contains")
        return self


class Filters(Section):
    """Rules on passage fields; hits must match all rules. Rules on `text` see only its first 65,535 bytes."""

    passage_id: Rule | None = None
    title: Rule | None = None
    text: Rule | None = None

    @classmethod
    def read(cls, filters: Filters | Mapping[str, Any] | None) -> Filters:
        """Parse filters from plain data, such as {"title": {"prefix": "pandas."}}.

        Raises:
            BadUsage: a field or rule is unknown or invalid; the message names it.
        """
        if isinstance(filters, Filters):
            return filters
        try:
            return cls.model_validate(dict(filters or {}))
        except (ValidationError, TypeError, ValueError) as error:
            raise BadUsage(f'filters: {_message(error)}. An example: {{"title": {{"prefix": "pandas."}}}}') from error

    def expression(self) -> str:
        """Return the Milvus expression; empty if there are no rules."""
        return " and ".join(part for name, rule in self._rules() for part in _parts(name, rule))

    @property
    def exact(self) -> bool:
        """Whether the expression alone decides: `keeps` accepts every hit that matches it."""
        return not any(_WILD.keys() & map(ord, rule.contains or "") for _, rule in self._rules())

    def keeps(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a hit that matches the expression also contains the exact text of `contains`."""
        return all(rule.contains is None or rule.contains in (fields[name] or "") for name, rule in self._rules())

    def _rules(self) -> Iterator[tuple[str, Rule]]:
        for name in FIELDS:
            if (rule := getattr(self, name)) is not None:
                yield name, rule


def _parts(name: str, rule: Rule) -> Iterator[str]:
    if rule.one_of is not None:
        yield f"{name} in [{', '.join(map(quote, rule.one_of))}]"
    if rule.not_in is not None:
        yield f"{name} not in [{', '.join(map(quote, rule.not_in))}]"
    if rule.prefix is not None:
        yield f"{name} >= {quote(rule.prefix)}"
        if (end := _after(rule.prefix)) is not None:
            yield f"{name} < {quote(end)}"
    if rule.contains is not None:
        yield f"{name} like {quote('%' + rule.contains.translate(_WILD) + '%')}"


def _after(prefix: str) -> str | None:
    """Return the smallest text greater than all texts that begin with `prefix`; None if there is none.

    Texts are ordered by their UTF-8 bytes, which is the order of code points.
    """
    stem = prefix.rstrip(chr(_LAST))
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def _message(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    unknown = f"no such field or rule; fields are {', '.join(FIELDS)}, rules are in, not_in, prefix, contains"
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {unknown if fault['type'] == 'extra_forbidden' else fault['msg']}"
        for fault in error.errors(include_input=False)
    )
