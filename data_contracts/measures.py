"""What rules can be about: small numbers measured on rows and tables, so that no engine has to hold the texts.

A rule names a measured column `<property>_<measure>`, such as `text_chars`. There are four kinds of measures:
of a row (it needs that row only), of a table (they compare rows, after the rows that already failed were put aside),
of the collection (taken when every table was read) and of a whole table (one figure, named `table_<measure>` or
`<property>_<measure>`, beside the last snapshot of the same feed; null when there is none).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

_CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f"
# UTF-8 that was once read as Latin-1 or Windows-1252: é becomes "Ã©", a curly quote "â€™", a hard space "Â ".
_MOJIBAKE = r"Ã[\x{{80}}-\x{{bf}}ƒˆ˜‘-•…‰‹›€™ŒœŠšŸŽž–—]|Â[\x{{a0}}-\x{{bf}}]|â€|ï»¿|ðŸ"
_MARKUP = (
    r"</?(a|b|i|p|br|div|span|table|tr|td|th|ul|ol|li|h[1-6]|em|strong|font|img|script|style|body|html)"
    r"(\s[^<>]*)?/?>|&(nbsp|amp|lt|gt|quot|apos|#\d+|#x[0-9a-f]+);"
)
# What an English web page says around its text.
_BOILERPLATE = (
    "all rights reserved|accept (all )?cookies|enable javascript|skip to (main )?content|subscribe to our newsletter"
    "|lorem ipsum|(page|404) not found"
)
# One pass over each text tells whether any of these four need to look at it at all: most texts are plain.
_FOR_ODD = ("controls", "mojibake", "markup", "boilerplate")
_ODD_SQL = f"regexp_matches({{p}}, '(?i)[{_CONTROLS}<&ÃÂâïð]|{_BOILERPLATE}')"

# `{p}` is the property. Character classes are RE2's; \pZ are Unicode's separators, \p{Cc} its controls, and
# \pC controls, private characters, and format characters, such as the joiners in Persian and Indic words.
OF_A_ROW = {
    "chars": "length({p})",  # Unicode code points; null stays null
    "bytes": "strlen({p})",  # in UTF-8
    # An estimate that needs no tokenizer: UTF-8 bytes by four. A word piece of BERT's English vocabulary covered 4.5
    # bytes of scientific abstracts, 4.6 of medical answers, 5.6 of short abstracts of the 1960s, 3.4 of Python source
    # and 3.0 of Chinese: so the estimate is 10 to 40 % too high for English, and 15 to 25 % too low for the last two.
    "tokens": "(strlen({p}) + 3) // 4",
    "value": "{p}",
    "visible": r"regexp_matches({p}, '[^\pZ\pC\s]')::INTEGER",
    "breaks": r"regexp_matches({p}, '[\pZ\p{{Cc}}\s]')::INTEGER",
    "controls": f"(CASE WHEN {{p}}_odd THEN regexp_matches({{p}}, '[{_CONTROLS}]') ELSE false END)::INTEGER",
    "nuls": "contains({p}, chr(0))::INTEGER",
    "replacements": "contains({p}, chr(65533))::INTEGER",
    "mojibake": f"(CASE WHEN {{p}}_odd THEN regexp_matches({{p}}, '{_MOJIBAKE}') ELSE false END)::INTEGER",
    "markup": f"(CASE WHEN {{p}}_odd THEN regexp_matches({{p}}, '(?i){_MARKUP}') ELSE false END)::INTEGER",
    "boilerplate": f"(CASE WHEN {{p}}_odd THEN regexp_matches({{p}}, '(?i){_BOILERPLATE}') ELSE false END)::INTEGER",
    "known": "coalesce({p} IN (SELECT {target} FROM {accepted}), false)::INTEGER",
}
# Two texts have the same wording: the same letters, whatever their case, spacing and last punctuation mark.
WORDING = r"trim(lower(regexp_replace(nfc_normalize({p}), '\s+', ' ', 'g')), ' .?!')"


@dataclass(frozen=True)
class Compared:
    """A measure that needs more than its row: SQL for (row, value), and the value of the rows it does not name.

    `{t}_passed` are the rows of the table that broke no error rule so far, with their hashes; `{t}_compared` the rows
    whose key occurs again, `{t}_<p>_again` the rows whose property's hash occurs again, `{t}_near` what the search for
    near duplicates found.
    """

    others: int
    sql: str


OF_A_TABLE = {
    # of `key`: an equal row came earlier (then the two are merged), another row of that key came earlier
    "repeats": Compared(0, "SELECT row, 1 AS value FROM {t}_compared WHERE nth > 1 AND content = first_content"),
    "conflicts": Compared(0, "SELECT row, 1 AS value FROM {t}_compared WHERE nth > 1 AND content <> first_content"),
    # in how many splits the property's value occurs
    "splits": Compared(
        1,
        "SELECT row, n AS value FROM {t}_passed JOIN (SELECT {p}, count(DISTINCT split) AS n FROM {t}_passed "
        "GROUP BY {p} HAVING n > 1) USING ({p})",
    ),
    # how many earlier rows have the very same value
    "copies": Compared(
        0,
        "SELECT row, n AS value FROM (SELECT row, row_number() OVER (PARTITION BY {p}_hash, {p}_head, {p}_tail "
        "ORDER BY row) - 1 AS n FROM {t}_passed JOIN {t}_{p}_again USING (row)) WHERE n > 0",
    ),
    # Jaccard similarity to an earlier row that begins or ends alike, of the sets of five words in a row; 0 below 0.5
    "nearness": Compared(0, "SELECT row, value FROM {t}_near"),
    # of qrels: how many judgements of the same wording and passage say the opposite
    "contradictions": Compared(
        0,
        "SELECT row, least(yes, no) AS value FROM (SELECT row, count(*) FILTER ({p} > 0) OVER same AS yes, "
        "count(*) FILTER ({p} <= 0) OVER same AS no FROM {t}_passed "
        "JOIN (SELECT query_id, {text_wording} AS wording FROM queries_accepted) USING (query_id) "
        "WINDOW same AS (PARTITION BY wording, passage_id)) WHERE least(yes, no) > 0",
    ),
    # of pairs: a training pair whose wording is also asked in a held-out split
    "leaks": Compared(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE split = 'train' AND {wording} IN "
        "(SELECT {wording} FROM {t}_passed WHERE split <> 'train')",
    ),
    # of pairs: a held-out pair whose wording is also asked in another held-out split
    "shared": Compared(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE split <> 'train' AND {wording} IN (SELECT {wording} "
        "FROM {t}_passed WHERE split <> 'train' GROUP BY 1 HAVING count(DISTINCT split) > 1)",
    ),
    # of pairs: a training pair whose passage also answers a held-out query
    "heldout": Compared(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE split = 'train' AND {p} IN "
        "(SELECT {p} FROM {t}_passed WHERE split <> 'train')",
    ),
    # of pairs: the share of a split's queries that one passage answers, as the lower end of Wilson's 99 % interval,
    # which stays low where there are too few queries to tell
    "share": Compared(
        0,
        "SELECT row, (k / n + 3.317 / n - 2.576 * sqrt(k / n * (1 - k / n) / n + 1.659 / n / n)) / (1 + 6.635 / n) "
        "AS value FROM {t}_passed "
        "JOIN (SELECT {p}, split, count(DISTINCT query_id)::DOUBLE AS k FROM {t}_passed GROUP BY ALL) "
        "USING ({p}, split) "
        "JOIN (SELECT split, count(DISTINCT query_id)::DOUBLE AS n FROM {t}_passed GROUP BY ALL) USING (split) "
        "WHERE k > 1",
    ),
}
# Of a property whose rows are compared for copies or nearness: what equal rows, and rows that may be near, share.
# All three together tell texts apart, however many there are.
HASHES = {
    "hash": "hash({p})",
    "head": "hash(lower(left({p}, 64)))",
    "tail": "hash(lower(substring({p}, -64)))",
}
OF_THE_COLLECTION = {
    # of queries: how many passages are positive for it
    "positives": Compared(
        0,
        "SELECT q.row, count(*) AS value FROM {t}_passed q JOIN qrels_accepted r USING (query_id) "
        "WHERE r.relevance > 0 GROUP BY q.row",
    ),
}
OF_A_WHOLE = (
    "rows",  # of `table`: rows accepted; of qrels the positives
    "growth",  # of `table`: rows accepted, divided by those of the last snapshot
    "scripts",  # of a text: how far the letters' shares of Unicode's scripts moved, 0 (not at all) to 1 (all new)
    "wording",  # of a text: share of its words that were the last snapshot's 100 commonest, divided by that share there
)
KEY = "key"  # stands for all key properties together
TABLE = "table"  # stands for the table


class Kind(IntEnum):
    """When a measure can be taken, in that order."""

    ROW = 0
    COMPARED = 1
    COLLECTION = 2
    WHOLE = 3


_KINDS = {
    **dict.fromkeys(OF_A_ROW, Kind.ROW),
    **dict.fromkeys(OF_A_TABLE, Kind.COMPARED),
    **dict.fromkeys(OF_THE_COLLECTION, Kind.COLLECTION),
    **dict.fromkeys(OF_A_WHOLE, Kind.WHOLE),
}
_OF_KEY = ("repeats", "conflicts")
_OF_TABLE = ("rows", "growth")


@dataclass(frozen=True)
class Measured:
    """A measured column, taken apart."""

    of: str  # the property, or `key`, or `table`
    measure: str

    @property
    def column(self) -> str:
        """Its name in the judged frame."""
        return f"{self.of}_{self.measure}"

    @property
    def kind(self) -> Kind:
        """When it can be taken."""
        return _KINDS[self.measure]


def take_apart(column: str, properties: tuple[str, ...]) -> Measured | None:
    """Split `column` into a property of the table (or `key`, or `table`) and a measure; None when it is neither."""
    name, _, measure = column.rpartition("_")
    if measure in _OF_KEY or measure in _OF_TABLE:
        known = name == (KEY if measure in _OF_KEY else TABLE)
    else:
        known = name in properties and measure in _KINDS
    return Measured(name, measure) if known else None


def row_sql(measured: Measured, foreign: tuple[str, str] | None) -> str:
    """The DuckDB expression of a measure of a row; `foreign` is the (table, property) that `known` looks in."""
    table, target = foreign or ("", "")
    return OF_A_ROW[measured.measure].format(p=measured.of, target=target, accepted=f"{table}_accepted")


def odd_sql(measured: Iterable[Measured]) -> dict[str, str]:
    """Columns `<property>_odd`, which the measures of rows look at, and the DuckDB expressions of them."""
    odd = {one.of for one in measured if one.measure in _FOR_ODD}
    return {f"{name}_odd": _ODD_SQL.format(p=name) for name in sorted(odd)}


def compared_sql(measured: Measured, table: str) -> tuple[int, str]:
    """The value that most rows have, and DuckDB's query for (row, value) of the others."""
    one = (OF_A_TABLE | OF_THE_COLLECTION)[measured.measure]
    wording, text_wording = WORDING.format(p=measured.of), WORDING.format(p="text")
    return one.others, one.sql.format(p=measured.of, t=table, wording=wording, text_wording=text_wording)
