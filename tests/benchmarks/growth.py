"""Cost of whole nights by step while a collection grows: seconds, CPU-seconds, memory of each process, bytes, disk.

    NIGHTSHIFT_TEST_MILVUS=…/milvus-server python tests/benchmarks/growth.py FOLDER --home DIR
        [--sizes 10000 100000 1000000] [--share 0.1] [--steps 50] [--tokens 16] [--layers 1] [--embedded 100000]

FOLDER is arXiv titles or MedQuAD in BEIR layout. `growth_source.py` makes collections of real texts of each size from
it, with queries in proportion (--share of the passages). Three nights run at each size, each a process of `nightshift
run`: a first night; a refresh night, after 1 % of the passages changed; and a night without changes. After each,
--searches single queries are searched in the release. The encoder is all-MiniLM-L6-v2 with only its first --layers
layers and --tokens tokens, so the pipeline is measured and not the model. Up to --embedded passages, collections are
in the embedded Milvus; beyond, on a real server, whose use is listed separately.

A step is charged from its heading in the night's log to the next heading. With `growth`, 1 means linear: a step that
takes 12 times as long for 10 times the passages has 1.20. Finished nights are kept in DIR/growth.jsonl, so an
interrupted run resumes; the home of a size is removed after its last night, unless --keep.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from few_layers import save_base
from growth_report import format_tables
from growth_source import GrowingCollection
from milvus_servers import real_server
from process_watch import ProcessWatch, folder_bytes

from tasks.core.base.settings_file import load_settings
from tasks.core.base.toml import toml_value
from tasks.core.report.history import read_history

HEADING = re.compile(r"^\S+ +\[\d+/\d+\] (\w+)")
NIGHTS = ("first", "refresh", "skip")
DEPTH = 10
SETTINGS: dict[str, dict[str, Any]] = {  # a night promotes any encoder, so that every step runs
    "data": {"format": "beir"},
    "drift": {"window_hours": 0, "cooldown_days": 0},
    "gate": {"margin": 1.0, "slice_margin": 1.0, "bm25_floor": False, "min_queries": 1},
    "milvus": {"grace_minutes": 0, "min_recall": 0.8},
    "training": {"epochs": 1000},
}


def main() -> None:
    """Run the nights that are missing, and print the tables."""
    chosen = _arguments()
    if chosen.search:
        _search(chosen.folder, chosen.search)
        return
    home = chosen.home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    file = home / "growth.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    finished = {(row["size"], row["night"]) for row in rows}
    missing = [size for size in chosen.sizes if any((size, night) not in finished for night in NIGHTS)]
    collection = GrowingCollection(chosen.folder, chosen.share) if missing else None
    for size in missing:
        assert collection is not None
        folder = home / str(size)
        folder.mkdir(exist_ok=True)
        with real_server(folder / "milvus") if size > chosen.embedded else nullcontext("") as uri:
            settings = _write_settings(folder, uri, chosen)
            for night in NIGHTS:
                if (size, night) in finished:
                    continue
                queries = collection.write(folder / "source", size, changed=night != "first")
                (folder / "searches.json").write_text(json.dumps(collection.user_queries(chosen.searches)))
                row = {"size": size, "night": night, "queries": queries, **_night(folder, settings, night)}
                row["index"] = f"{load_settings(settings).milvus.index} {'on a server' if uri else 'embedded'}"
                rows.append(row)
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(_progress(row), file=sys.stderr, flush=True)
        if not chosen.keep:
            shutil.rmtree(folder)
    print(format_tables([row for row in rows if row["size"] in chosen.sizes]))


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="arXiv titles or MedQuAD in BEIR layout")
    arguments.add_argument("--home", type=Path, default=Path("growth"), help="folder for homes and finished nights")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="passages")
    arguments.add_argument("--share", type=float, default=0.1, help="share of the passages with a query")
    arguments.add_argument("--steps", type=int, default=50, help="training steps")
    arguments.add_argument("--tokens", type=int, default=16, help="token limit of a text")
    arguments.add_argument("--layers", type=int, default=1, help="layers kept of the model")
    arguments.add_argument("--searches", type=int, default=100, help="searches after each night")
    arguments.add_argument("--embedded", type=int, default=100_000, help="most passages in the embedded Milvus")
    arguments.add_argument("--keep", action="store_true", help="keep the homes")
    arguments.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    return arguments.parse_args()


def _write_settings(folder: Path, uri: str, chosen: argparse.Namespace) -> Path:
    base = folder / "base"
    if not base.exists():
        save_base(base, chosen.layers)
    settings = {
        **SETTINGS,
        "data": SETTINGS["data"] | {"path": str(folder / "source")},
        "encoder": {"model": str(base), "passage_tokens": chosen.tokens, "query_tokens": chosen.tokens},
        "training": SETTINGS["training"] | {"max_steps": chosen.steps},
        "milvus": SETTINGS["milvus"] | ({"uri": uri, "index": "IVF_FLAT"} if uri else {}),
    }
    lines = [f"home = {toml_value(str(folder / 'home'))}"]
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"{name} = {toml_value(value)}" for name, value in values.items())]
    file = folder / "night.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def _night(folder: Path, settings: Path, night: str) -> dict[str, Any]:
    """Run a night, then search its release; return the cost of each step.

    Raises SystemExit with the end of the log when the night or the searches fail.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTSHIFT_")}
    environment["PREFECT_HOME"] = str(folder / "prefect")
    command = [str(Path(sys.executable).with_name("nightshift")), "run", "--settings", str(settings)]
    log = folder / f"{night}.log"
    with ProcessWatch() as watch, log.open("w", buffering=1) as output:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        for line in process.stdout:
            output.write(line)
            if heading := HEADING.match(line):
                watch.enter(heading.group(1))
        failed = process.wait() != 0
        watch.enter("search")
        searching = [sys.executable, __file__, str(settings), "--search", str(folder / "searches.json")]
        answers = None if failed else subprocess.run(searching, capture_output=True, text=True, check=False)
    if answers is None or answers.returncode:
        raise SystemExit(f"the night failed, see {log}:\n{log.read_text()[-2000:]}{answers.stderr if answers else ''}")
    last = read_history(folder / "home").to_pylist()[-1]
    searches = json.loads(answers.stdout.splitlines()[-1])
    disk = folder_bytes(folder / "home")
    return {"stages": watch.costs(), "outcome": last["outcome"], "why": last["why"], "disk": disk, **searches}


def _search(settings: Path, texts: Path) -> None:
    """Search single queries in the serving release; print the milliseconds of a search as JSON."""
    import time

    import numpy as np

    from tasks.core.search.searcher import Searcher

    seconds = []
    with Searcher.open(load_settings(settings)) as searcher:
        for text in json.loads(texts.read_text()):
            begin = time.perf_counter()
            searcher.search([text], k=DEPTH)
            seconds.append(time.perf_counter() - begin)
    p50, p99 = (1000 * float(np.quantile(seconds, share)) for share in (0.5, 0.99))
    print(json.dumps({"p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}))


def _progress(row: dict[str, Any]) -> str:
    steps = ", ".join(f"{name} {cost['seconds']:.0f} s" for name, cost in row["stages"].items())
    return f"{row['size']:,} {row['night']} ({row['outcome']}): {steps}"


if __name__ == "__main__":
    main()
