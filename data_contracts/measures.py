"""What rules can be about: small numbers measured on each row, so that no engine has to hold the texts.

A rule names a measured column `<property>_<measure>`, such as `text_chars`. Measures of a row need that row only;
measures of a table compare rows, and are taken after the rows that already failed were put aside.
"""

from __future__ import annotations

from dataclasses import dataclass

# `{p}` is the property. Character classes are RE2's; \pZ are Unicode's separators, \pC controls and invisible marks.
OF_A_ROW = {
    "chars": "length({p})",  # Unicode code points; null stays null
    "bytes": "strlen({p})",  # in UTF-8
    "value": "{p}",
    "visible": r"regexp_matches({p}, '[^\pZ\pC\s]')::INTEGER",
    "breaks": r"regexp_matches({p}, '[\pZ\pC\s]')::INTEGER",
    "controls": r"regexp_matches({p}, '[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]')::INTEGER",
    "nuls": "contains({p}, chr(0))::INTEGER",
    "replacements": "contains({p}, chr(65533))::INTEGER",
    "known": "coalesce({p} IN (SELECT {target} FROM {accepted}), false)::INTEGER",
}
OF_A_TABLE = {
    "repeats": "(nth > 1 AND content = first_content)::INTEGER",  # of `key`: an equal row came earlier
    "conflicts": "(nth > 1 AND content <> first_content)::INTEGER",  # of `key`: another row of that key came earlier
    "splits": "(min(split) OVER (PARTITION BY {p}) <> max(split) OVER (PARTITION BY {p}))::INTEGER + 1",  # 1, or more
}
KEY = "key"  # stands for all key properties together


@dataclass(frozen=True)
class Measured:
    """A measured column, taken apart."""

    of: str  # the property, or `key`
    measure: str

    @property
    def column(self) -> str:
        """Its name in the judged frame."""
        return f"{self.of}_{self.measure}"

    @property
    def of_a_table(self) -> bool:
        """Whether it compares rows with each other."""
        return self.measure in OF_A_TABLE


def take_apart(column: str, properties: tuple[str, ...]) -> Measured | None:
    """Split `column` into a property of the table (or `key`) and a measure; None when it is neither."""
    name, _, measure = column.rpartition("_")
    known = measure in OF_A_TABLE if name == KEY else name in properties and measure in (OF_A_ROW | OF_A_TABLE)
    return Measured(name, measure) if known else None


def row_sql(measured: Measured, foreign: tuple[str, str] | None) -> str:
    """The DuckDB expression of a measure of a row; `foreign` is the (table, property) that `known` looks in."""
    table, target = foreign or ("", "")
    return OF_A_ROW[measured.measure].format(p=measured.of, target=target, accepted=f"{table}_accepted")


def table_sql(measured: Measured) -> str:
    """The DuckDB expression of a measure of a table.

    It is used over rows that carry nth, content and first_content: place among, own content and first content
    of the rows with the same key.
    """
    return OF_A_TABLE[measured.measure].format(p=measured.of)
