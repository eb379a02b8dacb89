import json
from pathlib import Path

import pytest

from tasks.core.sources import demo
from tasks.core.sources.demo_modules import public_names, read_modules
from tasks.core.sources.demo_near_duplicates import NearDuplicates
from tasks.core.sources.demo_pairs import passage_text, read_pairs
from tasks.core.text.words import alphanumeric_words

INIT = '''
"""A package."""
from toys._private import hidden_home as make_home
from .trains import *
from .trains import Engine

__all__ = ["make_home", "Engine"]
__all__ += ["couple"]
'''
PRIVATE = '''
def hidden_home(size: int) -> str:
    """Build a little home for the toys.

    Build a little home
    for the toys. The home has as many rooms as given by `size`, and each of them has a door
    and a window, so that no toy sits in the dark for long.
    """
    message = "Build a little home for the toys"
    return message * size


def not_exported(size: int) -> str:
    """Nobody outside can see this function at all."""
    return "nothing of this can be reached, for any search text and after any number of searches"
'''
TRAINS = '''
from typing import overload

__all__ = ["Engine", "couple"]


class Engine:
    """The part of a train that pulls the others.

    It has a boiler, a chimney, and a driver who knows each signal along the whole line by its name.
    """

    def __init__(self, power: int) -> None:
        self.power = power

    def whistle(self, times: int = 1) -> str:
        """Warn everybody near the track by a :func:`~toys.sound` of steam.

        The louder the whistle, the farther away the people that step aside; three times is an alarm.
        """
        return "tuut" * times * self.power

    def stop(self) -> None:
        """Deprecated in favour of a real brake."""


@overload
def couple(first: Engine) -> Engine: ...
def couple(first, second=None):
    """Hang one wagon behind another one, e.g. for a longer train.

    Both have to stand still. When they do not, nothing happens and the first wagon is returned alone.
    """
    return first if second is None else (first, second)


def same_words(first, second=None):
    """Hang one wagon behind another one, e.g. for a longer train.

    Both have to stand still. When they do not, nothing happens and the first wagon is returned alone.
    """
    return first if second is None else (first, second)
'''


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    root = tmp_path / "toys"
    (root / "tests").mkdir(parents=True)
    (root / "__init__.py").write_text(INIT)
    (root / "_private.py").write_text(PRIVATE)
    (root / "trains.py").write_text(TRAINS)
    (root / "broken.py").write_text("def half(:\n")
    (root / "tests" / "test_trains.py").write_text(TRAINS.replace("wagon", "coach"))
    return root


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Write sixty modules with one distinct function each."""
    root = tmp_path / "many"
    root.mkdir()
    (root / "__init__.py").write_text("")
    for number in range(60):
        body = " ".join(f"word{number}x{place}" for place in range(30))
        summary = f"Explains in a sentence matter{number} and case{number}."
        code = f'def thing{number}():\n    """{summary}\n\n    {body}\n    """\n'
        (root / f"part{number}.py").write_text(code)
    return root


def read(folder: Path) -> dict[str, dict[str, str]]:
    passages = {row["_id"]: row for row in map(json.loads, (folder / "corpus.jsonl").open())}
    for row in map(json.loads, (folder / "queries.jsonl").open()):
        passages[row["_id"].removeprefix("q-")]["query"] = row["text"]
    return passages


def test_definitions_are_named_by_their_exported_names(toys: Path) -> None:
    names = public_names(read_modules("toys", toys))
    assert names["toys._private", "hidden_home"] == (0, "toys.make_home")
    assert names["toys.trains", "couple"] == (0, "toys.couple")
    assert names["toys.trains", "Engine"] == (0, "toys.Engine")
    assert ("toys._private", "not_exported") not in names


def test_a_pair_consists_of_a_summary_and_the_rest_of_its_definition(toys: Path, tmp_path: Path) -> None:
    demo.write(tmp_path / "out", 10, 0, {"toys": toys})
    passages = read(tmp_path / "out")
    assert set(passages) == {"toys.make_home", "toys.Engine", "toys.Engine.whistle", "toys.couple"}
    whistle = passages["toys.Engine.whistle"]
    assert whistle["query"] == "Warn everybody near the track by a toys.sound of steam"
    assert whistle["text"].startswith("def whistle(self, times: int = 1) -> str:\nThe louder the whistle")
    assert whistle["text"].endswith('return "tuut" * times * self.power')
    assert passages["toys.Engine"]["text"].endswith("Methods: whistle, stop")


def test_the_query_is_nowhere_in_its_passage(toys: Path, tmp_path: Path) -> None:
    demo.write(tmp_path / "out", 10, 0, {"toys": toys})
    for row in read(tmp_path / "out").values():
        assert " ".join(alphanumeric_words(row["query"])) not in " ".join(
            alphanumeric_words(f"{row['title']} {row['text']}")
        )


def test_stubs_tests_and_near_copies_are_left_out(toys: Path, tmp_path: Path) -> None:
    demo.write(tmp_path / "out", 10, 0, {"toys": toys, "more": toys})
    titles = set(read(tmp_path / "out"))
    assert not {title for title in titles if "stop" in title or "tests" in title or "same_words" in title}
    assert len({title.rpartition(".")[2] for title in titles}) == len(titles)


def test_no_module_is_in_two_splits_and_shares_are_about_70_10_20(many: Path, tmp_path: Path) -> None:
    folder = demo.write(tmp_path / "out", 60, 0, {"many": many})
    modules = {
        file.stem: {line.split("\t")[1].rpartition(".")[0] for line in file.read_text().splitlines()[1:]}
        for file in (folder / "qrels").iterdir()
    }
    assert sum(map(len, modules.values())) == len(set().union(*modules.values())) == 60
    assert len(modules["train"]) == pytest.approx(42, abs=9)
    assert len(modules["test"]) == pytest.approx(12, abs=7)


def test_the_name_of_a_module_decides_its_split() -> None:
    names = [f"module{number}" for number in range(2000)]
    splits = [demo.split_of(name, 0) for name in names]
    assert splits.count("train") / 2000 == pytest.approx(0.7, abs=0.04)
    assert splits.count("dev") / 2000 == pytest.approx(0.1, abs=0.03)
    assert splits != [demo.split_of(name, 1) for name in names]


def test_the_same_environment_and_seed_give_the_same_bytes(many: Path, toys: Path, tmp_path: Path) -> None:
    roots = {"many": many, "toys": toys}
    first, second = demo.write(tmp_path / "first", 20, 3, roots), demo.write(tmp_path / "second", 20, 3, roots)
    other = demo.write(tmp_path / "other", 20, 4, roots)
    files = [file.relative_to(first) for file in first.rglob("*.*")]
    assert [(first / file).read_bytes() for file in files] == [(second / file).read_bytes() for file in files]
    assert (first / "corpus.jsonl").read_bytes() != (other / "corpus.jsonl").read_bytes()


def test_the_cap_is_shared_among_packages(many: Path, toys: Path, tmp_path: Path) -> None:
    demo.write(tmp_path / "out", 6, 0, {"many": many, "toys": toys})
    titles = [title.split(".")[0] for title in read(tmp_path / "out")]
    assert titles == ["many", "toys"] * 3


def test_a_passage_is_cut_at_a_word(many: Path) -> None:
    file = many / "part0.py"
    file.write_text(file.read_text().replace("word0x3 ", "lengthy " * 500))
    (pair,) = [pair for pair in read_pairs(read_modules("many", many)) if pair.module == "many.part0"]
    text = passage_text(pair)
    assert text is not None
    assert 1990 <= len(text) <= 2000
    assert text.endswith("lengthy")


def test_the_demo_of_this_environment_contains_well_known_names(tmp_path: Path) -> None:
    import networkx

    root = Path(networkx.__file__).parent
    demo.write(tmp_path / "out", 400, 0, {"networkx": root})
    passages = read(tmp_path / "out")
    assert len(passages) == 400
    assert all(title.startswith("networkx.") for title in passages)
    assert sum(title.count(".") == 1 for title in passages) > 300


def test_near_duplicates_are_exactly_the_pairs_above_the_threshold() -> None:
    seen = NearDuplicates(0.8, shingle=1)
    for number in range(50):
        seen.add(f"k{number}", f"a b c d e f g h {number}a {number}b")  # 8 of 12 words shared by any two: 8/12 < 0.8
    assert seen.find("a b c d e f g h 60a 60b") is None
    assert seen.find("A, b; c d e f g h 7b") == "k7"  # 9/10
    assert seen.find("a b c d e f g h 7a 7b 7c 7d") == "k7"  # 10/12
    assert seen.find("a b c d e f g h 7a 7b 7c 7d 7e") is None  # 10/13
