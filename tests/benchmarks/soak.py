"""Thirty nights without hands: a collection that grows, scripted faults, and readers that search all the time.

    python tests/benchmarks/soak.py FOLDER --topic FOLDER [--nights 30] [--before COMMIT] [--json FILE] [--plot FILE]

FOLDER is MedQuAD or arXiv titles in BEIR layout, --topic another collection whose queries the users begin to send. The
nights run as the deployment `nightly` of `nightshift up`, on a Prefect server, with a milvus-lite server, on a disk of
their own (tmpfs, so this needs root). The encoder is one layer of MiniLM, so that the pipeline is tested and not the
model. The first nights run the version of the package at --before, later ones this version.

The clock is set, not waited for. Every time that the product compares with now (the last use of an artifact, the moves
of the pointer, the windows of the drift check) is moved back by a day between two nights, which has the same effect as
a clock that is set forward. `keep_days` is 7, so that retention reaches its steady state within the run.

Faults are in `soak_faults.py`, readers and the check of their answers in `soak_readers.py`. The verdict fails if a
night needs a manual action, an answer is wrong or mixed, a search fails while Milvus runs, a fault is neither healed by
a later night nor reported once with its next step, or the disk does not reach a steady state.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from few_layers import save_base
from month import search_queries
from month_stream import Query
from soak_faults import SCRIPT, THIN, UPGRADE, Fault
from soak_readers import Check, Readers, check_answers
from soak_report import draw, format_row, format_table, verdict
from soak_site import ROOT, Site
from soak_world import World, append_log
from work_cost import run_in_process

SETTINGS = """
keep_days = 7
[data]
format = "beir"
path = "{folder}/source"
[encoder]
model = "{folder}/encoder"
passage_tokens = 64
[embedding]
precision = "fp32"
[training]
max_steps = 8
epochs = 1000
batch_size = 16
[mining]
heap_mb = 256
[drift]
queries = "{folder}/queries.jsonl"
retrain_pairs = 0.15
"""
ALERT_SECONDS = 20  # until the alert of a run that ended arrives
READER_QUERIES = 40
NEVER = 10**6
QUIET_ENDS = ("Promoted", "Skipped")


def main() -> None:
    """Run the nights; print a row for each, the table, and the verdict. Exit 1 if the verdict fails."""
    chosen = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # also then, Prefect, Milvus, and the disk are removed
    script = THIN if chosen.thin else SCRIPT
    where = [min((night for night, each in script.items() if each is fault), default=NEVER) for fault in _worldly()]
    world = World(chosen.folder, chosen.topic, chosen.nights, *where)
    with tempfile.TemporaryDirectory(prefix="nightshift-soak-", dir=chosen.scratch) as temporary:
        folder = Path(temporary)
        run_in_process(save_base, folder / "encoder", 1)  # ranks better than random weights
        site = Site(folder, SETTINGS.format(folder=folder))
        with site.operating():
            soak = Soak(site, world, script, chosen)
            try:
                soak.run()
            finally:
                soak.end()
                soak.keep_logs()
    print(format_table(soak.rows))
    if chosen.plot:
        draw(soak.rows, chosen.plot)
    text, passed = verdict(soak.rows, soak.searches, soak.failures, soak.outages)
    print(f"\n{text}")
    sys.exit(not passed)


def _worldly() -> list[Fault]:
    from soak_faults import BOTS, DELETED, DRIFT

    return [DELETED, DRIFT, BOTS]


def _arguments() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="MedQuAD or arXiv titles in BEIR layout")
    arguments.add_argument("--topic", type=Path, required=True, help="another collection in BEIR layout")
    arguments.add_argument("--nights", type=int, default=30, help="number of nights")
    arguments.add_argument("--thin", action="store_true", help="two faults only, for a short run")
    arguments.add_argument("--before", default="8fa8e33", help="commit of the version before the upgrade")
    arguments.add_argument("--scratch", type=Path, help="folder for temporary files")
    arguments.add_argument("--json", type=Path, help="file to append the row of each night to")
    arguments.add_argument("--logs", type=Path, help="folder to keep the log of each night in")
    arguments.add_argument("--plot", type=Path, help="file to draw quality, disk, and memory to")
    return arguments.parse_args()


class Soak:
    """The nights, their rows, and the readers."""

    def __init__(self, site: Site, world: World, script: dict[int, Fault], chosen: argparse.Namespace) -> None:
        self.site, self.world, self.script, self.chosen = site, world, script, chosen
        self.rows: list[dict[str, Any]] = []
        self.readers: Readers | None = None
        self.searches, self.failures = 0, list[dict[str, Any]]()

    @property
    def outages(self) -> list[list[float]]:
        """Begin and end of each outage of Milvus."""
        return self.site.outages

    def run(self) -> None:
        """Run all nights."""
        upgrade = next((night for night, fault in self.script.items() if fault is UPGRADE), 0)
        self.site.start(self._earlier_version() if upgrade else ROOT)
        for night in range(1, self.chosen.nights + 1):
            if night == upgrade:
                self.site.stop()
                self.site.start(ROOT)
            if night == upgrade + 1:  # readers of the earlier version saw a release of this version
                self._replace_readers(night)
            row = self._night(night, self.script.get(night))
            self.rows.append(row)
            print(format_row(row), flush=True)
            if self.chosen.json:
                with self.chosen.json.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
            if self.readers is None:
                self._replace_readers(night)
            self.site.forward_clock()

    def end(self) -> None:
        """Stop the readers."""
        if self.readers is not None:
            self._count(self.readers)

    def _earlier_version(self) -> Path:
        folder = self.site.folder / "before"
        folder.mkdir()
        archive = subprocess.run(["git", "archive", self.chosen.before], cwd=ROOT, check=True, capture_output=True)
        subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
        return folder

    def _replace_readers(self, night: int) -> None:
        """Start readers of the installed version, and stop the earlier ones after it."""
        earlier = self.readers
        queries = [query.text for query in self.world.stream.night(1).judged if query.split == "test"][:READER_QUERIES]
        folder = self.site.folder / f"readers-{night}"
        self.readers = Readers(self.site.settings, queries, folder, self.site.environment)
        self.readers.wait_for_first_search()
        if earlier is not None:
            self._count(earlier)

    def _count(self, readers: Readers) -> None:
        readers.stop()
        self.searches += readers.searches
        self.failures += readers.failures()

    def _night(self, night: int, fault: Fault | None) -> dict[str, Any]:
        site, source = self.site, self.world.source(night)
        source.write(site.folder / "source")
        append_log(site.folder / "queries.jsonl", self.world.traffic(night))
        if fault and fault.damage:
            fault.damage(site.folder / "source")
        run = site.begin_night(fault.flow if fault else "nightly")
        second = site.up.start(fault.second, reason="drift of queries") if fault and fault.second and site.up else ""
        struck = bool(fault and (fault.damage or fault.world or fault.second))
        if fault and fault.strike and site.wait_for_stage(fault.stage):
            fault.strike(site)
            struck = True
        ended = [site.wait_for_end(each) for each in (run, second) if each]
        if fault and fault.restore:
            fault.restore(site)
        self._keep_log(night)
        states = [each["state"]["name"] for each in ended]
        wait = 0 if set(states) <= set(QUIET_ENDS) else ALERT_SECONDS
        alerts = [alert for each in ended for alert in site.alerts_about(each["id"], wait)]
        test = [query for query in source.judged if query.split == "test"]
        answers = self.readers.unchecked_answers() if self.readers else []
        quality, check = run_in_process(measure, site.settings, test, answers)
        return {
            "night": night,
            "fault": fault.name if fault else "",
            "struck": struck,
            "states": states,
            "expected": sorted(fault.ends) if fault else sorted({*QUIET_ENDS, "Rejected"}),
            "next_step": fault.next_step if fault else "",
            "messages": [each["state"].get("message") or "" for each in ended],
            "alerts": [f"{alert['subject']}\n{alert['body']}" for alert in alerts],
            "passages": len(source.passages),
            **quality,
            **site.figures(),
            "checked": check.checked,
            "wrong": check.wrong,
            "mixed": check.mixed,
            "searches": self.searches + (self.readers.searches if self.readers else 0),
        }

    def _keep_log(self, night: int) -> None:
        if self.chosen.logs:
            self.chosen.logs.mkdir(exist_ok=True)
            (self.chosen.logs / f"{night:02d}.log").write_text(self.site.log_of_night())

    def keep_logs(self) -> None:
        """Copy the logs of Prefect and of the readers to the folder of --logs."""
        if self.chosen.logs:
            for file in (*(self.site.home / "prefect").glob("*.log"), *self.site.folder.glob("readers-*/*")):
                shutil.copy(file, self.chosen.logs / f"{file.parent.name}-{file.name}")


def measure(settings: Path, test: list[Query], answers: list[dict[str, Any]]) -> tuple[dict[str, Any], Check]:
    """Return nDCG@10 of test queries in the serving release, and the check of the readers' answers."""
    return search_queries(settings, test), check_answers(settings, answers)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
