"""Measures that contract rules check: small numbers per row or table, so the rule engine never holds the texts.

A rule names a measured column `<property>_<measure>`, such as `text_chars`. There are four kinds of measures:

- row: computed from one row;
- table: compares the rows of a table that passed all row rules;
- collection: computed after all tables were read;
- aggregate: one number per table, named `table_<measure>` or `<property>_<measure>`. Most are compared with the last
  snapshot of the same feed, and are null when there is none.
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
# Standard phrases of English web pages.
_BOILERPLATE = (
    "all rights reserved|accept (all )?cookies|enable javascript|skip to (main )?content|subscribe to our newsletter"
    "|lorem ipsum|(page|404) not found"
)
# Most texts are plain. One regular expression per text decides whether these four measures must examine it.
_MEASURES_OF_ODD_TEXT = ("controls", "mojibake", "markup", "boilerplate")
_ODD_SQL = f"regexp_matches({{p}}, '(?i)[{_CONTROLS}<&ÃÂâïð]|{_BOILERPLATE}')"

# `{p}` is the property. Character classes follow RE2: \pZ matches Unicode separators, \p{Cc} matches controls, and \pC
# matches controls, private characters, and format characters (such as the joiners in Persian and Indic words).
ROW_MEASURES = {
    "chars": "length({p})",  # Unicode code points; null stays null
    "bytes": "strlen({p})",  # in UTF-8
    # An estimate that needs no tokenizer: UTF-8 bytes divided by four. Measured bytes per word piece of BERT's English
    # vocabulary: scientific abstracts 4.5, medical answers 4.6, short abstracts of the 1960s 5.6, Python source 3.4,
    # Chinese 3.0. The estimate is 10 to 40 % too high for English, and 15 to 25 % too low for Python and Chinese.
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
    "items": "len({p})",  # of a list
    "doubles": "len({p}) - len(list_distinct({p}))",  # of a list: number of repeated items
    "unshown": "(NOT list_has_all(shown, {p}))::INTEGER",  # of a list: `shown` lacks one of its items
    "known": "coalesce({p} IN (SELECT {target} FROM {accepted}), false)::INTEGER",
}
# The wording of a text: its letters without case, repeated white space, and punctuation at the end.
WORDING = r"trim(lower(regexp_replace(nfc_normalize({p}), '\s+', ' ', 'g')), ' .?!')"


@dataclass(frozen=True)
class Comparison:
    """A measure that needs other rows: a query that returns (row, value), and the value of all other rows.

    The query may read these relations of table `{t}`:

    - `{t}_passed`: rows that broke no error rule so far, with their hashes;
    - `{t}_compared`: rows whose key occurs more than once;
    - `{t}_<p>_again`: rows whose hash of property `<p>` occurs more than once;
    - `{t}_near`: near duplicates and their similarity.
    """

    default: int
    sql: str


TABLE_MEASURES = {
    # of `key`: repeats = an earlier row is equal (the two are merged); conflicts = an earlier row differs
    "repeats": Comparison(0, "SELECT row, 1 AS value FROM {t}_compared WHERE nth > 1 AND content = first_content"),
    "conflicts": Comparison(0, "SELECT row, 1 AS value FROM {t}_compared WHERE nth > 1 AND content <> first_content"),
    # number of splits in which the value of the property occurs
    "splits": Comparison(
        1,
        "SELECT row, n AS value FROM {t}_passed JOIN (SELECT {p}, count(DISTINCT split) AS n FROM {t}_passed "
        "GROUP BY {p} HAVING n > 1) USING ({p})",
    ),
    # number of earlier rows with the same value
    "copies": Comparison(
        0,
        "SELECT row, n AS value FROM (SELECT row, row_number() OVER (PARTITION BY {p}_hash, {p}_head, {p}_tail "
        "ORDER BY row) - 1 AS n FROM {t}_passed JOIN {t}_{p}_again USING (row)) WHERE n > 0",
    ),
    # highest Jaccard similarity of five-word shingles to an earlier row with the same beginning or end; 0 below 0.5
    "nearness": Comparison(0, "SELECT row, value FROM {t}_near"),
    # of clicks: number of clicks of all rows with the same value
    "clicks": Comparison(0, "SELECT row, sum(len(clicked)) OVER (PARTITION BY {p}) AS value FROM {t}_passed"),
    # of clicks: number of earlier rows of the session with a query of the same wording
    "earlier": Comparison(
        0,
        "SELECT row, n AS value FROM (SELECT row, row_number() OVER (PARTITION BY session, {wording} "
        "ORDER BY time, row) - 1 AS n FROM {t}_passed) WHERE n > 0",
    ),
    # of qrels: number of judgments of the same query wording and passage that contradict each other
    "contradictions": Comparison(
        0,
        "SELECT row, least(yes, no) AS value FROM (SELECT row, count(*) FILTER ({p} > 0) OVER same AS yes, "
        "count(*) FILTER ({p} <= 0) OVER same AS no FROM {t}_passed "
        "JOIN (SELECT query_id, {text_wording} AS wording FROM queries_accepted) USING (query_id) "
        "WINDOW same AS (PARTITION BY wording, passage_id)) WHERE least(yes, no) > 0",
    ),
    # of pairs: 1 for a training pair whose query wording also occurs in a held-out split
    "leaks": Comparison(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE split = 'train' AND {wording} IN "
        "(SELECT {wording} FROM {t}_passed WHERE split <> 'train')",
    ),
    # of pairs: 1 for a held-out pair whose query wording also occurs in another held-out split
    "shared": Comparison(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE split <> 'train' AND {wording} IN (SELECT {wording} "
        "FROM {t}_passed WHERE split <> 'train' GROUP BY 1 HAVING count(DISTINCT split) > 1)",
    ),
    # of pairs: 1 for a training pair whose passage also answers a held-out query
    "heldout": Comparison(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE split = 'train' AND {p} IN "
        "(SELECT {p} FROM {t}_passed WHERE split <> 'train')",
    ),
    # of pairs: share of the split's queries that the passage answers; the lower end of Wilson's 99 % interval, which
    # stays low when the split has few queries
    "share": Comparison(
        0,
        "SELECT row, (k / n + 3.317 / n - 2.576 * sqrt(k / n * (1 - k / n) / n + 1.659 / n / n)) / (1 + 6.635 / n) "
        "AS value FROM {t}_passed "
        "JOIN (SELECT {p}, split, count(DISTINCT query_id)::DOUBLE AS k FROM {t}_passed GROUP BY ALL) "
        "USING ({p}, split) "
        "JOIN (SELECT split, count(DISTINCT query_id)::DOUBLE AS n FROM {t}_passed GROUP BY ALL) USING (split) "
        "WHERE k > 1",
    ),
}
# The last vote or judgment of each person on a passage for a query wording; withdrawn ones do not count.
LATEST = (
    "(SELECT * FROM (SELECT row, {wording} AS wording, query, passage_id, origin, judge, judged_at, verdict, "
    "verdict <> 'not_relevant' AS relevant FROM {rows} "
    "QUALIFY row_number() OVER (PARTITION BY origin, judge, wording, passage_id ORDER BY row DESC) = 1) "
    "WHERE verdict <> 'withdrawn')"
)
# The votes for and against each pair. `decided`: one side leads by the number of votes that must agree.
COUNTED = (
    "(SELECT wording, passage_id, count(*) FILTER (relevant) AS yes, count(*) FILTER (NOT relevant) AS no, "
    "yes > no AS relevant, abs(yes - no) >= getvariable('votes') AS decided "
    "FROM {latest} WHERE origin = 'feedback' GROUP BY wording, passage_id)"
)
JUDGMENT_MEASURES = {
    # 1 if a query of this wording is held out
    "reserved": Comparison(
        0,
        "SELECT row, 1 AS value FROM {t}_passed WHERE {wording} IN "
        "(SELECT {wording} FROM pairs_accepted WHERE split <> 'train')",
    ),
    # number of people who judged the pair the other way
    "disputes": Comparison(
        0,
        "SELECT l.row, count(*) AS value FROM {latest} l JOIN {latest} o USING (wording, passage_id) "
        "WHERE l.origin = 'judge' AND o.origin = 'judge' AND l.relevant <> o.relevant GROUP BY l.row",
    ),
    # 1 for a vote on a pair that a person judged the other way
    "overruled": Comparison(
        0,
        "SELECT DISTINCT l.row, 1 AS value FROM {latest} l JOIN {latest} o USING (wording, passage_id) "
        "WHERE l.origin = 'feedback' AND o.origin = 'judge' AND l.relevant <> o.relevant",
    ),
    # 1 for a vote on a pair with votes for and against, where neither side leads by enough
    "undecided": Comparison(
        0,
        "SELECT l.row, 1 AS value FROM {latest} l JOIN {counted} c USING (wording, passage_id) "
        "WHERE l.origin = 'feedback' AND c.yes > 0 AND c.no > 0 AND NOT c.decided",
    ),
    # 1 for a vote that decided a pair against the source
    "opposed": Comparison(
        0,
        "SELECT l.row, 1 AS value FROM {latest} l JOIN {counted} c USING (wording, passage_id) "
        "JOIN (SELECT wording, passage_id, bool_or(relevance > 0) AS relevant FROM qrels_accepted "
        "JOIN (SELECT query_id, {text_wording} AS wording FROM queries_accepted) USING (query_id) "
        "GROUP BY wording, passage_id) s USING (wording, passage_id) "
        "WHERE l.origin = 'feedback' AND c.decided AND c.relevant <> s.relevant",
    ),
}
# Hashes of a property that is compared for copies or near duplicates. Near duplicates share `head` or `tail`; equal
# texts share all three, which together avoid collisions in a table of any size.
HASHES = {
    "hash": "hash({p})",
    "head": "hash(lower(left({p}, 64)))",
    "tail": "hash(lower(substring({p}, -64)))",
}
COLLECTION_MEASURES = {
    # of queries: number of positive passages
    "positives": Comparison(
        0,
        "SELECT q.row, count(*) AS value FROM {t}_passed q JOIN qrels_accepted r USING (query_id) "
        "WHERE r.relevance > 0 GROUP BY q.row",
    ),
}
AGGREGATE_MEASURES = (
    "rows",  # of `table`: accepted rows; of qrels: positives
    "growth",  # of `table`: accepted rows divided by the rows of the last snapshot
    "scripts",  # of a text: total variation distance between the script shares of letters; 0 (equal) to 1 (disjoint)
    "wording",  # of a text: share of the 100 most frequent words of the last snapshot, divided by their share there
)
KEY = "key"  # subject of measures over all key properties
TABLE = "table"  # subject of measures over the table


class Kind(IntEnum):
    """The kinds of measures, in the order in which they are computed."""

    ROW = 0
    TABLE = 1
    COLLECTION = 2
    AGGREGATE = 3


_KINDS = {
    **dict.fromkeys(ROW_MEASURES, Kind.ROW),
    **dict.fromkeys(TABLE_MEASURES | JUDGMENT_MEASURES, Kind.TABLE),
    **dict.fromkeys(COLLECTION_MEASURES, Kind.COLLECTION),
    **dict.fromkeys(AGGREGATE_MEASURES, Kind.AGGREGATE),
}
_KEY_MEASURES = ("repeats", "conflicts")
_TABLE_SIZE_MEASURES = ("rows", "growth")


@dataclass(frozen=True)
class Measured:
    """A measured column: its subject and its measure."""

    subject: str  # a property, `key`, or `table`
    measure: str

    @property
    def column(self) -> str:
        """Return the column name."""
        return f"{self.subject}_{self.measure}"

    @property
    def kind(self) -> Kind:
        """Return the kind of the measure."""
        return _KINDS[self.measure]


def parse_column(column: str, properties: tuple[str, ...]) -> Measured | None:
    """Split `column` into a property of the table (or `key`, or `table`) and a measure; None for an unknown column."""
    name, _, measure = column.rpartition("_")
    if measure in _KEY_MEASURES or measure in _TABLE_SIZE_MEASURES:
        known = name == (KEY if measure in _KEY_MEASURES else TABLE)
    else:
        known = name in properties and measure in _KINDS
    return Measured(name, measure) if known else None


def row_sql(measured: Measured, foreign_key: tuple[str, str] | None) -> str:
    """Return the DuckDB expression of a row measure.

    `foreign_key` is the (table, property) that the measure `known` searches.
    """
    table, target = foreign_key or ("", "")
    return ROW_MEASURES[measured.measure].format(p=measured.subject, target=target, accepted=f"{table}_accepted")


def odd_sql(measured: Iterable[Measured]) -> dict[str, str]:
    """Return the DuckDB expression of each column `<property>_odd`, which the row measures of odd texts read."""
    odd = {column.subject for column in measured if column.measure in _MEASURES_OF_ODD_TEXT}
    return {f"{name}_odd": _ODD_SQL.format(p=name) for name in sorted(odd)}


def compared_sql(measured: Measured, table: str) -> tuple[int, str]:
    """Return the default value of a table or collection measure, and the query for (row, value) of all other rows."""
    measure = (TABLE_MEASURES | JUDGMENT_MEASURES | COLLECTION_MEASURES)[measured.measure]
    subject = "query" if measured.measure in JUDGMENT_MEASURES else measured.subject
    wording, text_wording = WORDING.format(p=subject), WORDING.format(p="text")
    latest = LATEST.format(wording=wording, rows=f"{table}_passed")
    names = {"p": measured.subject, "t": table, "wording": wording, "text_wording": text_wording, "latest": latest}
    names["counted"] = COUNTED.format(latest=latest)
    return measure.default, measure.sql.format(**names)
