"""Every form of a source gives the same snapshot, at any location."""

from pathlib import Path

import pytest
from source_forms import (
    FORMS,
    PASSAGES,
    QUERIES,
    SPLITS,
    beir,
    dpr,
    msmarco,
    put,
    rows,
    sentence_transformers,
    tevatron,
    values,
)

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.ingest.ingest import ingest
from tasks.core.sources.source import find_source
from tasks.core.sources.split_names import split_of
from tasks.core.text.normalization import text_hash

EXAMPLES = Path(__file__).parents[2] / "infra" / "settings"


def snapshot_of(form: str, path: Path | str, home: Path) -> str:
    ingested, snapshot = ingest(Settings(home=home, data=DataSettings(format=form, path=path)))  # type: ignore[arg-type]
    assert (snapshot.rows, snapshot.queries, snapshot.qrels) == (30, 30, 30)
    assert snapshot.splits == {"train": 20, "dev": 5, "test": 5}
    assert ingested.quarantined == 0
    return snapshot.digest


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("plain")
    beir(root / "source")
    return snapshot_of("beir", root / "source", root / "home")


@pytest.mark.parametrize("form", FORMS)
def test_all_formats_of_a_collection_make_the_same_snapshot(form: str, tmp_path: Path, expected: str) -> None:
    kind, write = FORMS[form]
    write(tmp_path / "source")
    assert snapshot_of(kind, tmp_path / "source", tmp_path / "home") == expected


@pytest.mark.parametrize("columns", [3, 4])
@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_ms_marco_gives_the_rows_of_beir_without_titles(ending: str, columns: int, tmp_path: Path) -> None:
    msmarco(tmp_path / "msmarco", ending, columns)
    beir(tmp_path / "beir", titled=False)
    assert values(rows("msmarco", tmp_path / "msmarco", tmp_path)) == values(rows("beir", tmp_path / "beir", tmp_path))


def test_sentence_transformers_lines_are_named_by_their_texts(tmp_path: Path) -> None:
    sentence_transformers(tmp_path / "source")
    rows_read = rows("tevatron", tmp_path / "source", tmp_path / "scratch")
    name = {passage["_id"]: text_hash("", passage["text"]) for passage in PASSAGES}
    assert {row["passage_id"]: row["text"] for row in rows_read["passages"]} == {
        name[passage["_id"]]: passage["text"] for passage in PASSAGES
    }
    assert len(rows_read["passages"]) == 30
    text = {row["query_id"]: row["text"] for row in rows_read["queries"]}
    assert sorted(text.values()) == sorted(query["text"] for query in QUERIES)
    assert {(text[row["query_id"]], row["passage_id"], row["split"]) for row in rows_read["qrels"]} == {
        (QUERIES[n]["text"], name[f"p{n}"], split) for split, numbers in SPLITS.items() for n in numbers
    }


def test_a_passage_id_with_two_texts_gives_two_rows_to_the_contract(tmp_path: Path) -> None:
    line = '{"query": "q", "positive_passages": [{"docid": "p", "text": "one"}], "negative_passages": [%s]}\n'
    other = '{"docid": "p", "text": "two"}, {"docid": "p", "text": "one"}'
    put(tmp_path, "train.jsonl", line % other + line % other)
    rows_read = rows("tevatron", tmp_path, tmp_path / "scratch")
    assert [(row["passage_id"], row["text"]) for row in rows_read["passages"]] == [("p", "one"), ("p", "two")]
    assert (len(rows_read["queries"]), len(rows_read["qrels"])) == (1, 1)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("biencoder-nq-train.json.gz", "train"),
        ("validation-00000-of-00002.parquet", "dev"),
        ("nq_dev.json", "dev"),
        ("test_0003.jsonl", "test"),
        ("heldout.jsonl", "heldout"),
        ("nq-adv-hn.json", "nq-adv-hn"),
    ],
)
def test_a_file_name_gives_the_split(name: str, split: str) -> None:
    assert split_of(name) == split


def test_ms_marco_query_files_without_qrels_are_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    msmarco(tmp_path)
    put(tmp_path, "queries.eval.tsv", "q99\twho judges this\n")
    with caplog.at_level("INFO", "nightshift.ingest"):
        assert len(rows("msmarco", tmp_path, tmp_path / "scratch")["queries"]) == 30
    assert "queries.eval.tsv: skipped" in caplog.text
    (tmp_path / "queries.dev.tsv").unlink()
    with pytest.raises(BadInput, match=r"queries\.dev\.tsv: not found, but qrels\.dev\.tsv refers"):
        rows("msmarco", tmp_path, tmp_path / "scratch")
    put(tmp_path, "queries.tsv", "".join(f"{query['_id']}\t{query['text']}\n" for query in QUERIES))
    assert len(rows("msmarco", tmp_path, tmp_path / "scratch")["qrels"]) == 30


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    dpr(tmp_path)
    tevatron(tmp_path)
    assert len(rows("dpr", tmp_path / "biencoder-small-train.json", tmp_path / "a")["queries"]) == 20
    assert len(rows("tevatron", tmp_path / "dev.jsonl", tmp_path / "b")["queries"]) == 5


@pytest.mark.parametrize("form", FORMS)
def test_the_error_names_a_missing_file(form: str, tmp_path: Path) -> None:
    kind, _ = FORMS[form]
    with pytest.raises(BadInput, match=r"nowhere: no such folder or file. Set \[data\] path"):
        rows(kind, tmp_path / "nowhere", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=str(tmp_path / "empty")):
        rows(kind, tmp_path / "empty", tmp_path)


@pytest.mark.parametrize("address", ["s4://bucket/folder", "s3://", "hdfs:bad://x y"])
def test_an_unsupported_address_is_refused_with_the_next_step(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be opened|no such folder"):
        rows("beir", address, tmp_path)


def test_the_digest_of_a_source_depends_on_content_and_not_on_place_or_date(tmp_path: Path) -> None:
    beir(tmp_path / "one")
    beir(tmp_path / "two")
    first, second = (find_source(DataSettings(format="beir", path=tmp_path / name)) for name in ("one", "two"))
    local = find_source(DataSettings(format="beir", path=f"file://{tmp_path}/two"))
    assert first.identity == second.identity == local.identity
    put(tmp_path / "two", "queries.jsonl", (tmp_path / "two" / "queries.jsonl").read_bytes() + b"\n")
    assert find_source(DataSettings(format="beir", path=tmp_path / "two")).identity != first.identity


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    beir(tmp_path)
    source = find_source(DataSettings(format="beir", path=tmp_path))
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write("one more line\n")
    with pytest.raises(BadInput, match=r"corpus\.jsonl: changed while it was read"):
        list(source.open(tmp_path)("passages"))


@pytest.mark.parametrize("name", ["beir", "msmarco", "dpr", "tevatron", "parquet", "pairs"])
def test_every_form_has_example_settings(name: str) -> None:
    data = load_settings(EXAMPLES / f"{name}.toml").data
    assert data.format == name
    assert isinstance(data.path, str) == (name == "parquet")
