"""The lexical index as an artifact: the same bytes however it is built, in bounded memory, rebuilt after damage."""

from __future__ import annotations

import logging
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_damage import HARMS
from small_snapshot import snapshot_of

from tasks.core.base.files import CHECKSUMS, MANIFEST, find_artifact
from tasks.core.base.receipts import Postings
from tasks.core.retrieval import analyzed_batches, earlier_postings
from tasks.core.retrieval import postings as module
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.postings import build_postings
from tasks.core.retrieval.postings_format import (
    DOCUMENTS,
    FREQUENCIES,
    NORMS,
    TERMS,
    decoded_lengths,
    encode_lengths,
)
from tasks.core.snapshot.reader import passages
from tasks.core.text.normalization import full_text

FILES = (TERMS, DOCUMENTS, FREQUENCIES, NORMS)


def content(postings: Postings) -> dict[str, bytes]:
    assert sorted(file.name for file in postings.path.iterdir()) == sorted([*FILES, MANIFEST, CHECKSUMS])
    return {name: (postings.path / name).read_bytes() for name in FILES}


def lucene_small_float():
    """Lucene's own encoding of lengths."""
    Analyzer("en", "porter")  # starts the JVM
    from jnius import JavaClass, JavaStaticMethod, MetaJavaClass

    class SmallFloat(JavaClass, metaclass=MetaJavaClass):
        __javaclass__ = "org/apache/lucene/util/SmallFloat"
        intToByte4 = JavaStaticMethod("(I)B")
        byte4ToInt = JavaStaticMethod("(B)I")

    return SmallFloat


def test_lengths_are_encoded_as_lucene_does():
    lucene = lucene_small_float()
    bytes_of_java = np.arange(256, dtype=np.uint8).view(np.int8)
    assert decoded_lengths().tolist() == [lucene.byte4ToInt(int(code)) for code in bytes_of_java]
    borders = np.concatenate([decoded_lengths() - 1, decoded_lengths(), decoded_lengths() + 1])
    lengths = np.unique(np.concatenate([np.arange(5000), borders[(borders >= 0) & (borders < 2**31)], [2**31 - 1]]))
    expected = [lucene.intToByte4(int(length)) for length in lengths]
    assert encode_lengths(lengths).view(np.int8).tolist() == expected
    assert decoded_lengths()[encode_lengths(np.arange(43))].tolist() == [*range(41), 40, 42]


def test_the_index_lists_every_term_of_every_passage(world):
    analyzer = Analyzer("en", "porter")
    expected = {}
    lengths = []
    for batch in passages(world.snapshot, ["title", "text"]):
        for title, text in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True):
            terms = analyzer.terms(full_text(title, text))
            expected |= {(term, len(lengths)): count for term, count in Counter(terms).items()}
            lengths.append(len(terms))
    folder, receipt = world.postings.path, world.postings
    table = pq.read_table(folder / TERMS)
    documents, counts = np.fromfile(folder / DOCUMENTS, np.int32), np.fromfile(folder / FREQUENCIES, np.uint16)
    ends = table["end"].to_numpy()
    for start, end in zip([0, *ends], ends, strict=False):
        assert (np.diff(documents[start:end]) > 0).all()
    terms = np.repeat(table["term"].to_pylist(), np.diff(ends, prepend=0))
    pairs = zip(terms.tolist(), documents.tolist(), strict=True)
    assert dict(zip(pairs, counts.tolist(), strict=True)) == expected
    assert np.array_equal(np.fromfile(folder / NORMS, np.uint8), encode_lengths(np.array(lengths)))
    assert (receipt.rows, receipt.terms, receipt.postings) == (len(lengths), table.num_rows, len(expected))
    assert (receipt.tokens, receipt.documents) == (sum(lengths), np.count_nonzero(lengths))


@pytest.mark.parametrize("rows", [1, 50])
def test_small_batches_give_the_same_bytes(world, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(analyzed_batches, "BATCH_ROWS", rows)
    other = build_postings(tmp_path, world.snapshot, "en", "porter")
    assert not other.reused
    assert other.digest == world.postings.digest
    assert content(other) == content(world.postings)


def test_one_and_two_threads_of_arrow_give_the_same_bytes(world, tmp_path):
    before = pa.cpu_count()
    try:
        for threads in (1, 2):
            pa.set_cpu_count(threads)
            other = build_postings(tmp_path / str(threads), world.snapshot, "en", "porter")
            assert content(other) == content(world.postings)
    finally:
        pa.set_cpu_count(before)


def test_a_second_build_reuses_the_index_and_another_stemmer_does_not(world):
    assert build_postings(world.home, world.snapshot, "en", "porter").reused
    other = build_postings(world.home, world.snapshot, "en", "krovetz")
    assert not other.reused
    assert other.digest != world.postings.digest


@pytest.mark.parametrize("step", ["_write_batch", "_merge"])
def test_a_crashed_build_starts_again(world, tmp_path, monkeypatch, step):
    owner = analyzed_batches if step == "_write_batch" else module
    work, calls = getattr(owner, step), []

    def crash(*arguments):
        calls.append(step)
        if len(calls) == (3 if step == "_write_batch" else 1):
            raise KeyboardInterrupt
        return work(*arguments)

    monkeypatch.setattr(analyzed_batches, "BATCH_ROWS", 50)
    with monkeypatch.context() as crashing:
        crashing.setattr(owner, step, crash)
        with pytest.raises(KeyboardInterrupt):
            build_postings(tmp_path, world.snapshot, "en", "porter")
    assert find_artifact(tmp_path, Postings, world.postings.digest) is None
    assert content(build_postings(tmp_path, world.snapshot, "en", "porter")) == content(world.postings)
    assert not list((tmp_path / "postings").glob("*.partial"))


@pytest.mark.parametrize(("language", "stemmer"), [("en", "porter"), ("ar", "porter"), ("pl", "porter")])
def test_after_a_small_change_only_new_passages_are_analyzed_and_the_bytes_are_the_same(
    tmp_path, monkeypatch, language, stemmer
):
    """Delete, edit, insert, and rename passages; among them the first, the last, and the only one with a term."""
    random = np.random.default_rng(3)
    words = ["kot", "w1", "w2", "كتـاب", "ـــ", "running", *(f"t{number}" for number in range(40))]
    before = {f"p{row:03d}": " ".join(random.choice(words, random.integers(1, 30))) for row in range(200)}
    before |= {"p100": "unique", "p150": "!!"}
    after = {name: text for name, text in before.items() if name not in ("p000", "p100", "p151")}
    after |= {"p007": "edited unique2 w1", "p150a": "inserted w1 w1 cat", "o999": "first t1", "z": "last kot"}
    monkeypatch.setattr(earlier_postings, "BLOCK", 100)
    monkeypatch.setattr(module, "SORTED", 50)
    analyzed = []
    texts_of = Analyzer.joined_terms_of
    monkeypatch.setattr(
        Analyzer, "joined_terms_of", lambda self, texts: (analyzed.extend(texts), texts_of(self, texts))[1]
    )
    old, new = (snapshot_of(tmp_path / "reused", passages_) for passages_ in (before, after))
    build_postings(tmp_path / "reused", old, language, stemmer)
    analyzed.clear()
    reused = build_postings(tmp_path / "reused", new, language, stemmer)
    removed = [before[name] for name in ("p000", "p007", "p100", "p151")]
    assert sorted(analyzed) == sorted([*removed, *(after[name] for name in ("p007", "p150a", "o999", "z"))])
    built = build_postings(tmp_path / "scratch", snapshot_of(tmp_path / "scratch", after), language, stemmer)
    assert content(reused) == content(built)
    assert reused.model_dump(exclude={"path", "seconds", "peak_mb"}) == built.model_dump(
        exclude={"path", "seconds", "peak_mb"}
    )


def test_postings_of_a_mostly_different_snapshot_are_not_reused(tmp_path, caplog):
    texts = {f"p{row:03d}": f"text {row}" for row in range(100)}
    build_postings(tmp_path, snapshot_of(tmp_path, texts), "en", "porter")
    with caplog.at_level(logging.INFO, logger="nightshift"):
        for more, message in ((101, "analyzing 201 passages"), (99, "analyzing 0 passages (199 reused)")):
            larger = texts | {f"q{row:03d}": "other" for row in range(more)}
            build_postings(tmp_path, snapshot_of(tmp_path, larger), "en", "porter")
            assert f"BM25: {message}" in caplog.messages


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_a_damaged_file_is_set_aside_and_the_index_built_again(world, tmp_path, caplog, file, harm):
    made = build_postings(tmp_path, world.snapshot, "en", "porter")
    HARMS[harm](made.path / file)
    assert find_artifact(tmp_path, Postings, made.digest) is None
    assert str(made.path / file) in caplog.text
    again = build_postings(tmp_path, world.snapshot, "en", "porter")
    assert (again.reused, content(again)) == (False, content(world.postings))
    assert len(list(made.path.parent.glob(f".{made.digest}.damaged-*"))) == 1


def test_memory_does_not_grow_with_the_number_of_passages(tmp_path, monkeypatch):
    monkeypatch.setattr(analyzed_batches, "BATCH_ROWS", 64)
    random = np.random.default_rng(2)
    texts = [" ".join(f"w{word}" for word in random.integers(0, 200, 30)) for _ in range(250)]

    def peak(home: Path, repeats: int) -> tuple[int, int]:
        every = {f"p{number:05d}": text for number, text in enumerate(texts * repeats)}
        snapshot = snapshot_of(home, every, group_rows=64)
        tracemalloc.start()
        try:
            postings = build_postings(home, snapshot, "en", "porter")
            return tracemalloc.get_traced_memory()[1], postings.postings
        finally:
            tracemalloc.stop()

    logging.disable()
    peak(tmp_path / "warm", 1)
    (small, few), (large, many) = peak(tmp_path / "small", 2), peak(tmp_path / "large", 16)
    logging.disable(logging.NOTSET)
    assert many == 8 * few
    assert large < 1.25 * small
    assert large < many * 6  # bytes of the finished arrays
