"""Every injected fault is reported by its rule, and no clean row is reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from small_collection import Collection, build, passage, query

from tasks.core.ingest.ingest import ingest

CORPUS, QUERIES, TRAIN, DEV = "corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv"
LONG = "".join(f"word{n} and some more of it, " for n in range(60))


def text(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# rule -> (file, the n-th faulty line): all of severity error
ERRORS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "malformed_json": (CORPUS, lambda n: b'{"_id": "x%d", "text": "cut' % n),
    "invalid_utf8": (CORPUS, lambda n: b'{"_id": "x%d", "text": "bad \xff byte"}' % n),
    "wrong_type": (CORPUS, lambda n: text(_id=[n], text="an id that is a list")),
    "missing_field": (CORPUS, lambda n: text(_id=f"m{n}")),
    "passage_id_present": (CORPUS, lambda n: text(_id=None, text=f"an id that is null {n}")),
    "passage_id_length": (CORPUS, lambda n: text(_id="", text=f"an id that is empty {n}")),
    "passage_id_clean": (CORPUS, lambda n: text(_id=f"a {n}", text=f"an id with a space {n}")),
    "passage_text_present": (CORPUS, lambda n: text(_id=f"null{n}", text=None)),
    "passage_text_visible": (CORPUS, lambda n: text(_id=f"blank{n}", text=" \u200b\t" * (n % 3))),
    "passage_text_length": (CORPUS, lambda n: text(_id=f"long{n}", text=f"{n} " + "a" * 1_000_000)),
    "passage_text_nuls": (CORPUS, lambda n: text(_id=f"nul{n}", text=f"binary \0 data number {n}")),
    "passage_conflicting": (CORPUS, lambda n: text(**{**passage(n % 30), "text": f"Another text, the {n}th of it."})),
    "query_id_present": (QUERIES, lambda n: text(_id=None, text=f"a query without a name {n}")),
    "query_id_length": (QUERIES, lambda n: text(_id="q" * 513, text=f"a query with a long name {n}")),
    "query_id_clean": (QUERIES, lambda n: text(_id=f"q\n{n}", text=f"a query on two lines {n}")),
    "query_text_present": (QUERIES, lambda n: text(_id=f"qnull{n}", text=None)),
    "query_text_visible": (QUERIES, lambda n: text(_id=f"qblank{n}", text="\u00a0")),
    "query_text_length": (QUERIES, lambda n: text(_id=f"qlong{n}", text=f"{n}" * 10_001)),
    "query_text_nuls": (QUERIES, lambda n: text(_id=f"qnul{n}", text=f"a nul \0 in a query {n}")),
    "query_conflicting": (QUERIES, lambda n: text(**{**query(n % 30), "text": f"another query text, number {n}"})),
    "malformed_row": (TRAIN, lambda n: b"q1 p%d" % n),
    "bad_score": (TRAIN, lambda n: b"q1\tp%d\tmuch" % n),
    "qrel_query_known": (TRAIN, lambda n: b"nobody%d\tp1\t1" % n),
    "qrel_passage_known": (TRAIN, lambda n: b"q1\tnothing%d\t1" % n),
    "qrel_conflicting": (TRAIN, lambda n: b"q%d\tp%d\t%d" % (n % 20, n % 20, 2 + n)),
    "pair_query_leaks": (TRAIN, lambda n: b"q%d\tp%d\t1" % (20 + n % 10, n // 10 % 30)),
}  # fmt: skip
# rule -> (file, the n-th line that is an equal copy of a good row)
COPIES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "passage_repeated": (CORPUS, lambda n: text(**passage(n % 30))),
    "query_repeated": (QUERIES, lambda n: text(**query(n % 30))),
    "qrel_repeated": (TRAIN, lambda n: b"q%d\tp%d\t1" % (n % 20, n % 20)),
}
# rule -> (file, the n-th line that gets a warning and is kept)
WARNINGS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "passage_title_length": (CORPUS, lambda n: text(_id=f"wt{n}", title="t" * 2001, text=f"under a long title {n}")),
    "passage_title_controls": (CORPUS, lambda n: text(_id=f"wc{n}", title="bell \a", text=f"a text under a bell {n}")),
    "passage_text_short": (CORPUS, lambda n: text(_id=f"ws{n}", text=f"s {n:04d}")),
    "passage_text_controls": (CORPUS, lambda n: text(_id=f"wk{n}", text=f"an escape \x1b in text {n}")),
    "passage_text_replacements": (CORPUS, lambda n: text(_id=f"wr{n}", text=f"a lost \ufffd character {n}")),
    "passage_text_broken": (CORPUS, lambda n: text(_id=f"wb{n}", text=f"un cafÃ© de trop, numéro {n}")),
    "passage_text_markup": (CORPUS, lambda n: text(_id=f"wm{n}", text=f'so <a href="x">it</a> was &nbsp; {n}')),
    "passage_text_boilerplate": (CORPUS, lambda n: text(_id=f"wp{n}", text=f"All Rights Reserved, page {n}")),
    "passage_text_tokens": (CORPUS, lambda n: text(_id=f"wl{n}", text=f"{n} starts " + "word " * 2000 + f"ends {n}")),
    "passage_text_copied": (CORPUS, lambda n: text(_id=f"wd{n}", text=passage(n % 30)["text"])),
    "passage_text_near": (CORPUS, lambda n: text(_id=f"wn{n}", text=f"{LONG} and in the end {n} differs")),
    "query_text_controls": (QUERIES, lambda n: text(_id=f"vc{n}", text=f"a vertical \x0b tab {n}")),
    "query_text_replacements": (QUERIES, lambda n: text(_id=f"vr{n}", text=f"a lost \ufffd one {n}")),
    "query_text_broken": (QUERIES, lambda n: text(_id=f"vb{n}", text=f"donâ€™t ask me {n}")),
    "query_text_markup": (QUERIES, lambda n: text(_id=f"vm{n}", text=f"what is &lt; here {n}")),
    "query_text_tokens": (QUERIES, lambda n: text(_id=f"vl{n}", text=f"{n} " + "long " * 500)),
    "qrel_relevance_range": (TRAIN, lambda n: b"q%d\tp%d\t%d" % (n % 20, n % 20 + 1 + n // 20 % 8, 101 + n)),
}  # fmt: skip
MOST = 12
counts = st.fixed_dictionaries({rule: st.integers(1, MOST) for rule in (*ERRORS, *COPIES, *WARNINGS)})
injected: Counter[str] = Counter()


@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])
@given(counts=counts, random=st.randoms(use_true_random=False))
def inject(counts: dict[str, int], random: Any) -> None:
    counts["passage_text_length"] = counts["query_text_length"] = 1  # each is a megabyte
    with TemporaryDirectory() as folder:
        collection = build(Path(folder))
        expected = insert_faults(collection, counts, random)
        ingested, snapshot = ingest(collection.settings(max_refused=0.99))
        refused = pq.read_table(ingested.path / "quarantine.parquet").to_pylist()
        pointed = pq.read_table(ingested.path / "warnings.parquet").to_pylist()
        refused_rules = {(row["file"], row["row"]): row["rule"] for row in refused}
        assert refused_rules == {place: rule for place, rule in expected.items() if rule in ERRORS}
        assert len(refused_rules) == len(refused) == ingested.quarantined
        kept_rules = {place: rule for place, rule in expected.items() if rule in WARNINGS or rule in COPIES}
        copied = {place for place, rule in kept_rules.items() if rule in COPIES}
        lines = [
            ((r["file"], r["row"]), r["rule"])
            for r in pointed
            if r["rule"] in COPIES or (r["rule"] in WARNINGS and (r["file"], r["row"]) not in copied)
        ]
        assert sorted(line for line in lines if line[0] not in refused_rules) == sorted(kept_rules.items())
        assert ingested.rows == ingested.accepted + ingested.quarantined == 91 + len(expected)
        assert ingested.merged == len(copied)
        warned = Counter(file for (file, _), rule in expected.items() if rule in WARNINGS)
        assert snapshot.rows == 31 + warned[CORPUS]
        assert snapshot.queries == 30 + warned[QUERIES]
        assert snapshot.qrels == 30 + warned[TRAIN]
        failed: Counter[str] = Counter()
        for rule_count in ingested.rules:
            failed[rule_count.rule] += rule_count.failed
        assert all(failed[rule] >= n for rule, n in Counter(expected.values()).items())
        injected.update(expected.values())


def insert_faults(collection: Collection, counts: dict[str, int], random: Any) -> dict[tuple[str, int], str]:
    """Insert faulty lines among valid lines, and return (file, line number) -> rule.

    A line that repeats or copies a row is inserted below it.
    """
    faults: dict[str, list[tuple[str, bytes]]] = {CORPUS: [], QUERIES: [], TRAIN: []}
    for rule, (file, line) in (ERRORS | COPIES | WARNINGS).items():
        faults[file] += [(rule, line(number)) for number in range(counts[rule])]
    expected = {}
    for file, lines in faults.items():
        path = collection.root / file
        good: list[tuple[str | None, bytes]] = [(None, line) for line in path.read_bytes().splitlines()]
        if file == CORPUS:
            good.append((None, text(_id="original", text=f"{LONG} and in the end nothing differs")))
        head, good = (good[:1], good[1:]) if file == TRAIN else ([], good)
        early = [fault for fault in lines if not compares(fault[0])]
        late = [fault for fault in lines if compares(fault[0])]
        first = shuffle_together(good, early, random)
        last_good = max(place for place, (rule, _) in enumerate(first) if rule is None) + 1
        ordered = [*head, *first[:last_good], *shuffle_together(first[last_good:], late, random)]
        path.write_bytes(b"\n".join(line for _, line in ordered) + b"\n")
        expected |= {(file, number): rule for number, (rule, _) in enumerate(ordered, start=1) if rule}
    return expected


def compares(rule: str) -> bool:
    return rule.endswith(("_repeated", "_conflicting", "_copied", "_near"))


def shuffle_together(left: list[Any], right: list[Any], random: Any) -> list[Any]:
    """Merge two lists at random, each in its original order."""
    marks = [True] * len(left) + [False] * len(right)
    random.shuffle(marks)
    first, second = iter(left), iter(right)
    return [next(first) if mark else next(second) for mark in marks]


def test_every_injected_fault_fails_its_rule_and_clean_rows_fail_none() -> None:
    injected.clear()
    inject()
    assert set(injected) == {*ERRORS, *COPIES, *WARNINGS}
    assert injected.total() >= 1000
