from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_snapshot import snapshot_of_texts

from tasks.core.base.files import read_receipt
from tasks.core.base.receipts import Tokens
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.embedding import text_index as textindex
from tasks.core.embedding import token_cache as tokens
from tasks.core.embedding.shards import gather_shards
from tasks.core.embedding.text_index import build_index, find_rows, hash_bytes, read_first_rows, read_hashes
from tasks.core.embedding.token_cache import TokenCache, known_tokens
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, load_encoder, save_encoder, start_from
from tasks.core.encoder.tokenizer_digest import tokenizer_key
from tasks.core.encoder.tower import Tower
from tasks.core.snapshot.passage_ranges import passages_between
from tasks.core.text.normalization import text_hash
from tasks.core.training.texts import PassageTexts
from tasks.core.training.trainer import base_encoder

STORIES = ["a river", "a castle", "a river", "the golden violin was seen", "a falcon", "a castle", "a river", "", "one"]


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> DualEncoder:
    return started(tiny_model, tmp_path / "encoder", passage_tokens=12)


def started(base: Path, folder: Path, **settings: object) -> DualEncoder:
    folder.mkdir()
    return start_from(base, EncoderSpec.of(EncoderSettings(**settings), "fp32"), folder)  # type: ignore[arg-type]


def cached(home: Path, tower: Tower, texts: Sequence[str]) -> tuple[TokenCache, np.ndarray]:
    """Return the cache of these texts, and the first row of each text."""
    snapshot = snapshot_of_texts(home, texts)
    index = build_index(home, snapshot)
    return TokenCache(home, tower, snapshot, index), read_first_rows(index, 0, len(texts))


def test_the_first_row_of_each_text_does_not_depend_on_the_bucket_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {n * n % 61}" for n in range(300)]
    monkeypatch.setattr(textindex, "BUCKET_ROWS", 40)
    monkeypatch.setattr(textindex, "CHUNK_ROWS", 32)
    index = build_index(tmp_path, snapshot_of_texts(tmp_path, texts))
    firsts = [texts.index(text) for text in texts]
    assert index.distinct == len(set(texts))
    assert read_first_rows(index, 0, 300).tolist() == firsts
    assert read_first_rows(index, 17, 29).tolist() == firsts[17:29]
    hashes = hash_bytes(pa.array([text_hash("", text) for text in [*texts, "another text"]]))
    assert find_rows(index, hashes).tolist() == [*firsts, -1]
    assert read_hashes(index, 250, 300).tolist() == hashes[250:300].tolist()


def test_a_range_of_rows_is_read_from_its_row_groups(tmp_path: Path) -> None:
    snapshot = snapshot_of_texts(tmp_path, [f"text {n}" for n in range(11)])
    for start, end in [(0, 11), (3, 5), (4, 8), (7, 11), (10, 11), (5, 5), (0, 0)]:
        batches = list(passages_between(snapshot, start, end, ["text"], batch_rows=3))
        read = [text for batch in batches for text in batch["text"].to_pylist()]
        assert read == [f"text {n}" for n in range(start, end)]


def test_cached_ids_equal_those_of_the_tokenizer(
    encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "BLOCK_ROWS", 4)
    monkeypatch.setattr(tokens, "TEXTS_AT_ONCE", 3)
    cache, first = cached(tmp_path, encoder.passage, STORIES)
    rows = np.array([8, 0, 3, 7, 4])
    assert [ids.tolist() for ids in cache.take(rows)] == encoder.passage.tokenize([STORIES[row] for row in rows])
    sealed = cache.seal()
    assert (sealed.texts, sealed.tokenised, sealed.copied) == (6, 6, 0)
    assert sealed.tokens == sum(map(len, encoder.passage.tokenize(list(dict.fromkeys(STORIES)))))
    ids_of_texts = [ids.tolist() for ids in cache.take(first)]
    assert ids_of_texts == encoder.passage.tokenize(STORIES)
    assert cache.lengths(first).tolist() == [len(ids) for ids in ids_of_texts]


def test_a_later_night_tokenizes_only_new_texts(
    encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "BLOCK_ROWS", 4)
    cached(tmp_path, encoder.passage, STORIES)[0].seal()
    later = ["silent", *reversed(STORIES[2:]), "a lantern"]
    tokenized: list[str] = []
    tokenize = encoder.passage.tokenize
    monkeypatch.setattr(encoder.passage, "tokenize", lambda texts: tokenized.extend(texts) or tokenize(texts))
    cache, first = cached(tmp_path, encoder.passage, later)
    sealed = cache.seal()
    assert tokenized == ["silent", "a lantern"]
    assert (sealed.texts, sealed.tokenised, sealed.copied) == (8, 2, 6)
    assert [ids.tolist() for ids in cache.take(first)] == tokenize(later)


def test_an_incomplete_block_is_rebuilt(encoder: DualEncoder, tmp_path: Path) -> None:
    whole = cached(tmp_path / "straight", encoder.passage, STORIES)[0].seal()
    cache, first = cached(tmp_path / "killed", encoder.passage, STORIES)
    cache.take(first)
    (partial,) = (tmp_path / "killed" / "tokens").glob(".*.partial")
    (partial / "00000.json").unlink()
    (partial / "00000.ids").write_bytes(b"half a block")
    sealed = cache.seal()
    for name in ("00000.ids", "00000.ends"):
        assert (sealed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_the_tokenizer_key_ignores_weights_only(tiny_model: Path, tmp_path: Path) -> None:
    base = started(tiny_model, tmp_path / "base", passage_tokens=12)
    base.passage.tokenize(["a text that the tokenizer has seen " * 9])
    save_encoder(base, tmp_path / "trained")
    weights = (tmp_path / "trained" / "model.safetensors").read_bytes()
    trained = load_encoder(tmp_path / "trained")
    next(trained.passage.parameters()).data += 1
    save_encoder(trained, tmp_path / "again")
    again = load_encoder(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() != weights
    assert again.fingerprint != base.fingerprint
    assert tokenizer_key(again.passage) == tokenizer_key(trained.passage) == tokenizer_key(base.passage)
    variants = [
        started(tiny_model, tmp_path / "limit", passage_tokens=13),
        started(tiny_model, tmp_path / "prompt", passage_tokens=12, passage_prompt="passage: "),
    ]
    words = (tiny_model / "vocab.txt").read_text().replace("river", "rivers")
    altered = tmp_path / "altered"
    altered.mkdir()
    for file in tiny_model.iterdir():
        (altered / file.name).write_bytes(file.read_bytes().replace(b'"river"', b'"rivers"'))
    (altered / "vocab.txt").write_text(words)
    variants.append(started(altered, tmp_path / "words", passage_tokens=12))
    assert len({tokenizer_key(encoder.passage) for encoder in (base, *variants)}) == 4


def test_training_has_the_same_ids_with_and_without_the_cache(
    encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cached(tmp_path, encoder.passage, STORIES[:5])[0]
    snapshot = snapshot_of_texts(tmp_path, STORIES)
    ids = pa.array([f"p{row:06d}" for row in (6, 1, 3, 7, 8)])

    def read() -> tuple[dict[str, int], list[list[int]]]:
        texts = PassageTexts(encoder.passage)
        rows = texts.add(snapshot, ids)
        return rows, texts.tokens().take(range(len(texts.tokens())))

    without = read()
    old.seal()
    partly = read()
    cached(tmp_path, encoder.passage, STORIES)[0].seal()
    monkeypatch.setattr(encoder.passage, "tokenize", lambda texts: [][: len(texts)])
    assert without == partly == read()


def test_one_cache_serves_every_encoder_and_night(tiny_model: Path, tmp_path: Path) -> None:
    """Another encoder with the same tokenizer reuses the cache, and a later night copies the ids of known texts."""
    settings = Settings.model_validate(
        {"home": tmp_path, "encoder": {"model": str(tiny_model)}, "embedding": {"precision": "fp32"}}
    )
    snapshot = snapshot_of_texts(tmp_path, STORIES)
    base = base_encoder(tmp_path, snapshot, settings.encoder, settings.embedding)
    pooled = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"pooling": "cls"})})
    other = base_encoder(tmp_path, snapshot, pooled.encoder, pooled.embedding)
    assert base.passage_fingerprint != other.passage_fingerprint
    gather_shards(tmp_path, base, snapshot, 2)
    (first,) = caches(tmp_path)
    gather_shards(tmp_path, other, snapshot, 3)
    assert caches(tmp_path) == [first]
    assert (first.texts, first.tokenised) == (6, 6)

    texts = ["silent orchid", *STORIES]
    later = snapshot_of_texts(tmp_path, texts)
    gather_shards(tmp_path, base, later, 2)
    second = next(cache for cache in caches(tmp_path) if cache.snapshot == later.digest)
    assert (second.texts, second.tokenised, second.copied) == (7, 1, 6)
    tower = load_encoder(base.path).passage
    known = known_tokens(tmp_path, tokenizer_key(tower), later)
    assert known is not None
    places = known.find(hash_bytes(pa.array([text_hash("", text) for text in texts])))
    assert [ids.tolist() for ids in known.take(places)] == tower.tokenize(texts)


def test_known_texts_are_copied_although_a_pool_of_few_passages_is_newer(encoder: DualEncoder, tmp_path: Path) -> None:
    tower = encoder.passage
    for texts in (STORIES, ["a falcon", "a tall tower"]):
        cached(tmp_path, tower, texts)[0].seal()
    tokens, _ = cached(tmp_path, tower, ["a tall tower", "silent orchid", *STORIES])
    receipt = tokens.seal()
    assert (receipt.texts, receipt.tokenised, receipt.copied) == (8, 1, 7)
    assert [ids.tolist() for ids in tokens.take(np.arange(3))] == tower.tokenize(
        ["a tall tower", "silent orchid", "a river"]
    )


def caches(home: Path) -> list[Tokens]:
    receipts = [read_receipt(path, Tokens) for path in sorted((home / "tokens").glob("[!.]*"))]
    return [receipt.model_copy(update={"reused": False}) for receipt in receipts if receipt is not None]
