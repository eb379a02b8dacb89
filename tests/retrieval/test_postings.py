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
from tasks.core.retrieval import postings as module
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.postings import (
    DOCUMENTS,
    FREQUENCIES,
    NORMS,
    TERMS,
    build_postings,
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
    monkeypatch.setattr(module, "BATCH_ROWS", rows)
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
    work, calls = getattr(module, step), []

    def crash(*arguments):
        calls.append(step)
        if len(calls) == (3 if step == "_write_batch" else 1):
            raise KeyboardInterrupt
        return work(*arguments)

    monkeypatch.setattr(module, "BATCH_ROWS", 50)
    with monkeypatch.context() as crashing:
        crashing.setattr(module, step, crash)
        with pytest.raises(KeyboardInterrupt):
            build_postings(tmp_path, world.snapshot, "en", "porter")
    assert find_artifact(tmp_path, Postings, world.postings.digest) is None
    assert content(build_postings(tmp_path, world.snapshot, "en", "porter")) == content(world.postings)
    assert not list((tmp_path / "postings").glob("*.partial"))


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
    monkeypatch.setattr(module, "BATCH_ROWS", 64)
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
