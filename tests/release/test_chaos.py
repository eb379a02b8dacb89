"""`kill -9` at random moments of a night, then rerun it: a verified release always serves, and nothing is left over.

NIGHTSHIFT_TEST_KILLS sets the number of kills for each kind of Milvus, NIGHTSHIFT_TEST_SEED the random seed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter, defaultdict
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
from chaos_night import REFRESH, ROWS, SHARDS, Nursery, Plan, lines_of, night, rows_of
from release_fixtures import ledgers
from release_world import as_text, lose_ledger, small, snapshot_of

from tasks.core.base.files import file_digest, files_under, load
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.release.generation import Parts, verify_generation
from tasks.core.release.ledger import open_ledger
from tasks.core.release.milvus.collection import connect
from tasks.core.release.publish import serving
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher
from tasks.core.training.trainer import base_encoder

KILLS = int(os.environ.get("NIGHTSHIFT_TEST_KILLS", "50"))
SEED = int(os.environ.get("NIGHTSHIFT_TEST_SEED", "8"))
QUERIES = ["lamp river n3", "violin harbour n8", "entry 40 copper"]
KEEP = {"keep": 2, "batch_rows": 10}
STAGES = {  # the last log line of a killed night, and its step
    "begun": "embed",
    "shard": "embed",
    "building": "load",
    "inserted": "load",
    "deleted": "load",
    "flushed": "index",
    "indexed": "index",
    "closed": "verify",
    "verified": "swap",
    "is live": "record",
    "recorded": "prune",
    "removed": "prune",
    "ended": "over",
}


@pytest.fixture
def nursery():
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
def seed_home(settings, tiny_model, tmp_path):
    """Create a home with an encoder, the vectors of two nights and, without a server, their two releases."""
    home = tmp_path / "seed"
    first = snapshot_of(home, rows_of("first"))
    encoder = base_encoder(home, first, EncoderSettings(model=str(tiny_model), passage_tokens=32), EmbeddingSettings())
    for tag in ("first", "second", "night", REFRESH):
        snapshot = snapshot_of(home, rows_of(tag))
        if tag in ("first", "second"):
            gather_shards(home, encoder, snapshot, SHARDS)
    if not settings.milvus.uri:
        two_nights(small(home, **KEEP), encoder)
    return home, encoder


@pytest.mark.slow
@ledgers
def test_a_night_killed_anywhere_leaves_a_valid_release_and_no_orphans(settings, nursery, seed_home, tmp_path, capsys):
    kill_nights("night", settings, nursery, seed_home, tmp_path, capsys)


@pytest.mark.slow
def test_a_refresh_killed_anywhere_never_touches_the_generation_that_it_copies(
    settings, nursery, seed_home, tmp_path, capsys
):
    kill_nights(REFRESH, settings, nursery, seed_home, tmp_path, capsys)


def kill_nights(tag, settings, nursery, seed_home, tmp_path, capsys):
    """Kill nights at random moments, rerun each, and compare the result with that of an undisturbed night."""
    seed, encoder = seed_home
    undisturbed = begin(settings, seed, tmp_path / "undisturbed", encoder)
    plan = Plan(as_text(undisturbed), encoder.digest, tag, str(tmp_path / "undisturbed.log"))
    assert nursery.live(plan) == 0
    wanted = content(undisturbed)
    logged = lines_of(plan.log)
    assert (tag == REFRESH) == any("3 deleted in a copy" in line for _, line in logged)
    gaps = [after - before for (before, _), (after, _) in pairwise(logged)]
    steps = defaultdict(list)
    for number, (_, line) in enumerate(logged[:-1]):
        steps[step_of(line)].append(number)

    stages, moments = Counter(), draw_moments(steps, gaps)
    for number in range(3 * KILLS):
        if stages.total() >= KILLS and set(stages) == set(steps):
            break
        now = begin(settings, seed, tmp_path / f"home{number}", encoder)
        before = serving(now)[0]
        files = files_of(now, before)
        log = tmp_path / f"{number}.log"
        plan = Plan(as_text(now), encoder.digest, tag, str(log))
        line, delay = next(moments)
        code = nursery.live(plan._replace(line=line, delay=delay))
        if code == 0:
            clear(now)
            continue  # the night had already finished; draw another moment
        assert code == -signal.SIGKILL, log.read_text()
        if (step := step_of(lines_of(log)[-1][1])) in steps:  # not after the last line
            stages[step] += 1
        with Searcher.open(now, load_encoder) as searcher:  # before any repair
            names = {answer.release for answer in searcher.search(QUERIES)}
        current = verify_serving(now)
        assert names == {current.release}
        assert before.release == current.release or current.reason == tag
        assert nursery.live(plan) == 0, log.read_text()
        assert verify_serving(now).reason == tag
        assert files_of(now, before) == files
        assert content(now) == wanted
        check_nothing_left(now)
        clear(now)
    with capsys.disabled():
        length = logged[-1][0] - logged[0][0]
        print(f"\n{stages.total()} kills in nights of {length:.2f} s, {number} drawn, by step: {dict(stages)}")
    assert stages.total() >= KILLS
    assert set(stages) == set(steps)


def files_of(settings, release):
    """Return the digest of each file of an embedded release's collection."""
    folder = settings.home / "milvus" / f"{release.collection}.db"
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files_under(folder)}


def draw_moments(steps, gaps):
    """Yield random moments, each a log line and the seconds after it. Every step gets its turn, as most are short.

    Half of the moments are exactly at the line: on a busy machine, a step of a millisecond ends before another thread
    wakes.
    """
    rng = random.Random(SEED)
    while True:
        for step in rng.sample(list(steps), len(steps)):
            line = rng.choice(steps[step])
            yield line, rng.choice([0, rng.uniform(0, gaps[line])])


def clear(settings):
    """Remove a home and its collections on a server."""
    if settings.milvus.uri:
        client = connect(settings.milvus.uri)
        client.drop_alias(settings.milvus.alias)
        for name in open_publisher(settings.home, settings.milvus).collections():
            client.drop_collection(name)
        client.close()
    lose_ledger(settings)
    shutil.rmtree(settings.home)


def begin(settings, seed, home, encoder):
    """Create a separate home with two releases and, on a server, a separate alias."""
    shutil.copytree(seed, home)
    if not settings.milvus.uri:
        return small(home, **KEEP)
    alias = f"{settings.milvus.alias}_{home.name}"
    new = small(home, settings.release, uri=settings.milvus.uri, alias=alias, **KEEP)
    two_nights(new, encoder)
    return new


def two_nights(settings, encoder):
    for tag in ("first", "second"):
        night(settings, encoder, tag)


def verify_serving(settings):
    """Run every check of a new release on the serving one, and return it."""
    release, _ = serving(settings)
    assert release is not None
    artifacts_used = ((Encoder, release.encoder), (Embeddings, release.embeddings), (Snapshot, release.snapshot))
    parts = Parts(
        *(load(settings.home, kind, digest) for kind, digest in artifacts_used), settings.milvus, load_encoder
    )
    with open_ledger(settings) as ledger:
        generation = next(entry for entry in ledger.generations() if entry.number == release.generation)
    assert verify_generation(generation, parts, open_publisher(settings.home, settings.milvus)) == 1
    return release


def content(settings):
    """Return the digest of the serving release and all rows of its collection."""
    release, _ = serving(settings)
    with closing(open_publisher(settings.home, settings.milvus).open(release.collection)) as reader:
        (hits,) = reader.search(np.ones((1, release.dimension), np.float32), 2 * ROWS, ["title", "text", "vector"])
    assert len(hits) == ROWS
    rows = [(hit.row, hit.passage_id, hit.fields["title"], hit.fields["text"], *hit.fields["vector"]) for hit in hits]
    return release.digest, sorted(rows)


def check_nothing_left(settings):
    """Check that only the two newest releases exist, and no unfinished files."""
    with open_ledger(settings) as ledger:
        retained = {release.collection for release in ledger.releases() if not release.pruned}
    assert open_publisher(settings.home, settings.milvus).collections() == retained
    assert len(retained) == 2
    home = settings.home
    if not settings.milvus.uri:
        assert {path.name for path in (home / "milvus").iterdir()} == {f"{name}.db" for name in retained}
        assert list((home / "readers").iterdir()) == []
    assert list(home.glob("*/.*.partial")) == []


def step_of(line):
    """Return the step in progress after a night has logged `line`."""
    return next((STAGES[word] for word in STAGES if word in line), "verify")
