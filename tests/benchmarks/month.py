"""Cost and quality of a month of nights on a collection that grows, under several policies.

    python tests/benchmarks/month.py FOLDER [--nights 30] [--passages N] [--policies naive ours derived] [--home DIR]
        [--steps 30] [--tokens 128] [--fresh-every 1] [--json FILE] [--plot FILE]

FOLDER is arXiv titles or MedQuAD in BEIR layout. `month_stream.py` makes a source for each night from it: passages,
queries, and judgments arrive, and 0.5 % of the passages are deleted and 0.5 % edited each night. The policies:

    naive     a script of a scheduler: a new home each night; train from the base model, embed and load all passages;
              promote always
    ours      one home, default settings
    warm      one home; train from the serving encoder, with replay
    derived   one home; train the query encoder and a map of the passage vectors
    auto      one home; each night that trains chooses between the query encoder, a map, and all weights, and a night
              trains only once three tenths of the pairs are new
    NAME=FILE one home, with the settings in a TOML file

Every policy uses the same sources, training steps, and limits. A night that starts with an empty home does not depend
on the nights before, so `--fresh-every 5` runs only nights 1, 6, 11, … and the last of such a policy. Each night is a
run of `nightshift run` on the source of the night. Then users search: the queries of this night, which are in no source
before the next night, are searched with the released searcher, and give nDCG@10. CPU-seconds are those of the process
and its children. A stage is charged from its heading in the log to the next heading; `start` includes loading the
libraries, the ends of nights are in the last stage. Nights run back to back, so the settings that count hours and days
are 0.

With --home, finished nights are kept in DIR/nights.jsonl, so an interrupted run can be resumed. A night that was
interrupted is marked: its CPU-seconds lack those before the interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
from month_report import draw, format_table
from month_stream import Query, Source, Stream
from work_cost import cpu_of_children, run_in_process

from tasks.core.base.settings_file import load_settings
from tasks.core.base.toml import toml_value
from tasks.core.evaluation.measures import means, per_query
from tasks.core.report.history import read_history
from tasks.core.search.searcher import Searcher

HEADING = re.compile(r"^\S+ +\[\d+/\d+\] (\w+)")
DEPTH, BATCH = 10, 256
COMMON = """
[drift]
window_hours = 0
cooldown_days = 0
[milvus]
grace_minutes = 0
"""
NAIVE = """
[training]
evaluate_every = 0
[evaluation]
probe_queries = 0
[gate]
margin = 1.0
slice_margin = 1.0
bm25_floor = false
min_queries = 1
"""
WARM = """
[encoder]
start = "serving"
[training]
replay = 0.3
"""
DERIVED = """
[encoder]
shared = false
train = "query+map"
start = "serving"
"""
AUTO = """
[encoder]
shared = false
train = "auto"
[drift]
retrain_pairs = 0.3
"""


class Policy(NamedTuple):
    """The settings of a policy, as TOML, and whether each night starts with an empty home."""

    settings: str
    fresh: bool = False


POLICIES = {
    "naive": Policy(NAIVE, fresh=True),
    "ours": Policy(""),
    "warm": Policy(WARM),
    "derived": Policy(DERIVED),
    "auto": Policy(AUTO),
}


class Cost(NamedTuple):
    """The cost of a run, in seconds."""

    wall: float
    cpu: float
    stages: dict[str, float]  # CPU-seconds by stage


def main() -> None:
    """Run the nights that are missing, and print the table."""
    chosen = _arguments()
    with tempfile.TemporaryDirectory(prefix="nightshift-month-") as temporary:
        home = (chosen.home or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        _refuse_other_arguments(home / "arguments.json", chosen)
        file = chosen.json or home / "nights.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        finished = {(row["policy"], row["night"]) for row in rows}
        stream = Stream(chosen.folder, chosen.nights, chosen.passages, chosen.stock, chosen.churn, chosen.seed)
        for night in range(1, chosen.nights + 1):
            sampled = (night - 1) % chosen.fresh_every == 0 or night == chosen.nights
            due = [name for name in chosen.policies if sampled or not POLICIES[name].fresh]
            missing = [name for name in due if (name, night) not in finished]
            source = stream.night(night) if missing else None
            for name in missing:
                assert source is not None
                row = {"policy": name, "night": night, **_run_policy(home, name, chosen, source)}
                before = [earlier["release"] for earlier in rows if earlier["policy"] == name][-1:]
                row["released"] = POLICIES[name].fresh or [row["release"]] != before
                rows.append(row)
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
        print(format_table(rows, chosen.policies))
        if chosen.plot:
            draw(rows, chosen.policies, chosen.plot)


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="arXiv titles or MedQuAD in BEIR layout")
    arguments.add_argument("--nights", type=int, default=30, help="number of nights")
    arguments.add_argument("--passages", type=int, default=0, help="most passages, evenly over time; 0: all")
    arguments.add_argument("--policies", nargs="+", default=["naive", "ours", "derived"], help="policies to run")
    arguments.add_argument("--stock", type=float, default=0.5, help="share of the passages in the first night")
    arguments.add_argument("--churn", type=float, default=0.005, help="share deleted, and share edited, each night")
    arguments.add_argument("--steps", type=int, default=30, help="training steps of each policy")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of passages")
    arguments.add_argument(
        "--fresh-every", type=int, default=1, help="nights from a run with an empty home to the next"
    )
    arguments.add_argument("--seed", type=int, default=0, help="seed of the stream")
    arguments.add_argument("--home", type=Path, help="folder of homes and finished nights; default: temporary")
    arguments.add_argument("--json", type=Path, help="file of finished nights; default: nights.jsonl in the home")
    arguments.add_argument("--plot", type=Path, help="file to draw both curves to, .svg or .png")
    chosen = arguments.parse_args()
    for number, name in enumerate(chosen.policies):
        label, _, file = name.partition("=")
        if file:
            POLICIES[label], chosen.policies[number] = Policy(Path(file).read_text()), label
        elif label not in POLICIES:
            arguments.error(f"no policy {label}; there are {', '.join(POLICIES)}, or NAME=FILE with its settings")
    return chosen


def _refuse_other_arguments(file: Path, chosen: argparse.Namespace) -> None:
    """Stop if finished nights of the home come from another stream or other training settings."""
    names = ("nights", "passages", "stock", "churn", "steps", "tokens", "seed")
    now = {"folder": str(chosen.folder.resolve()), **{name: getattr(chosen, name) for name in names}}
    if file.exists() and (before := json.loads(file.read_text())) != now:
        raise SystemExit(f"{file.parent} has nights of other arguments: {before}")
    file.write_text(json.dumps(now))


def _run_policy(home: Path, name: str, chosen: argparse.Namespace, source: Source) -> dict[str, Any]:
    """Run a night of a policy, then search its queries; return the row of the night."""
    policy, folder = POLICIES[name], home / name
    started = folder / "night-started"
    interrupted = started.exists() and not policy.fresh
    if policy.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    started.touch()
    source.write(home / "source")
    settings = folder / "settings.toml"
    settings.write_text(_settings_of(policy, folder / "home", home / "source", chosen))
    cost = run_night(settings, folder / "night.log", home / "prefect")
    quality = run_in_process(search_queries, settings, source.queries)
    last = read_history(folder / "home").to_pylist()[-1]
    started.unlink()
    return {
        "outcome": last["outcome"],
        "work": last["work"],
        "why": last["why"],
        **quality,
        "passages": len(source.passages),
        "wall": round(cost.wall, 1),
        "cpu": round(cost.cpu, 1),
        "stages": {stage: round(seconds, 1) for stage, seconds in cost.stages.items()},
        "interrupted": interrupted,
    }


def _settings_of(policy: Policy, home: Path, source: Path, chosen: argparse.Namespace) -> str:
    settings: dict[str, Any] = {
        "home": str(home),
        "data": {"format": "beir", "path": str(source)},
        "encoder": {"passage_tokens": chosen.tokens},
        "training": {"max_steps": chosen.steps, "epochs": 1000},
    }
    for more in (tomllib.loads(COMMON), tomllib.loads(policy.settings)):
        for section, values in more.items():
            settings[section] = settings.get(section, {}) | values if isinstance(values, dict) else values
    return "".join(f"{name} = {toml_value(value)}\n" for name, value in settings.items())


def run_night(settings: Path, log: Path, prefect: Path) -> Cost:
    """Run `nightshift run` with a settings file; write its output to `log`.

    Raises SystemExit with the end of the output when the night fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    environment |= {"PREFECT_HOME": str(prefect)}
    command = [str(Path(sys.executable).with_name("nightshift")), "run", "--settings", str(settings)]
    begin, used = time.perf_counter(), cpu_of_children()
    night = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert night.stdout is not None
    stages, stage, charged = dict[str, float](), "start", 0.0
    with log.open("w", buffering=1) as output:
        for line in night.stdout:
            output.write(line)
            if heading := HEADING.match(line):
                now = _cpu_of_tree(night.pid)
                stages[stage] = stages.get(stage, 0.0) + now - charged
                stage, charged = heading.group(1), now
    if night.wait() != 0:
        raise SystemExit(f"the night failed, see {log}:\n{log.read_text()[-2000:]}")
    wall, cpu = time.perf_counter() - begin, cpu_of_children() - used
    stages[stage] = stages.get(stage, 0.0) + cpu - charged
    return Cost(wall, cpu, stages)


def _cpu_of_tree(pid: int) -> float:
    """Return the CPU-seconds of a process, its live descendants, and their finished children."""
    root, seconds = psutil.Process(pid), 0.0
    for process in (root, *root.children(recursive=True)):
        try:
            seconds += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return seconds


def search_queries(settings: Path, queries: Sequence[Query]) -> dict[str, Any]:
    """Search queries in the serving release; return its name, the number of queries, and their mean nDCG@10."""
    hits: list[tuple[str, str, int]] = []
    with Searcher.open(load_settings(settings)) as searcher:
        for start in range(0, len(queries), BATCH):
            batch = queries[start : start + BATCH]
            answers = searcher.search([query.text for query in batch], k=DEPTH)
            for query, answer in zip(batch, answers, strict=True):
                hits += [(query.query, hit.passage_id, hit.rank) for hit in answer.hits]
        release = searcher.release
    judged = [(query.query, passage, 1) for query in queries for passage in sorted(query.positives)]
    measures = per_query(
        _table(hits, "query_id", "passage_id", "rank"), _table(judged, "query_id", "passage_id", "relevance")
    )
    return {"release": release, "queries": len(queries), "ndcg": round(means(measures)["ndcg@10"], 4)}


def _table(rows: Sequence[tuple[Any, ...]], *names: str) -> pa.Table:
    return pa.table({name: [row[column] for row in rows] for column, name in enumerate(names)})


if __name__ == "__main__":
    main()
