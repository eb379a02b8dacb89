"""Speed and memory of validating generated passages and qrels, compared with Great Expectations' pandas engine.

    python tests/benchmarks/contracts.py [--json] [--passages 1000000] [--small 100000] [--jsonl]

Each system runs in a separate process and reads the same Parquet file (JSON lines with --jsonl). Nightshift runs its
complete ingest: it reads and validates all four tables, searches for near duplicates, and writes quarantine, snapshot,
and pages. The peer only reads the passages and runs the passage rules that it can express, on the full texts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BAD_EVERY = 1_000  # one passage in 1,000 gets one of BAD_TEXTS
VISIBLE, NUL = "[^\\s\u200b]", r"\x00"
SEVERE = (VISIBLE, NUL)
BAD_TEXTS = ("", " \u200b ", "binary \0 data in a text")


def main() -> None:
    """Run all systems and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--passages", type=int, default=1_000_000, help="passages of the large run")
    arguments.add_argument("--small", type=int, default=100_000, help="passages of the small run")
    arguments.add_argument("--jsonl", action="store_true", help="read JSON lines instead of Parquet files")
    arguments.add_argument("--worker", nargs=2, metavar=("SYSTEM", "FOLDER"), help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.worker:
        print(json.dumps(_measure(chosen.worker[0], Path(chosen.worker[1]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        runs = {}
        for size in (chosen.small, chosen.passages):
            folder = Path(scratch) / str(size)
            _generate(folder, size)
            if not chosen.jsonl:
                _to_parquet(folder)
            for system in ("nightshift", "gx"):
                runs[f"{system}-{size}"] = _run_in_process(system, folder)
            _remove_folder(folder)
    ratios = _compare(runs, chosen.small, chosen.passages)
    print(json.dumps({"runs": runs, **ratios}, indent=2) if chosen.json else _format_table(runs, ratios))


def _generate(folder: Path, size: int) -> None:
    """Write a BEIR folder: passages of 60 to 200 words, and a query with a qrel for every second passage."""
    random_ = random.Random(7)
    words = ["".join(random_.choices("abcdefghijklmnopqrstuvwxyz", k=random_.randint(2, 9))) for _ in range(20_000)]
    stream = random_.choices(words, k=20_000_000)
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(size):
            start = random_.randrange(len(stream) - 200)
            text = " ".join(stream[start : start + random_.randint(60, 200)])
            if number % BAD_EVERY == 0:
                text = BAD_TEXTS[number // BAD_EVERY % len(BAD_TEXTS)]
            file.write(json.dumps({"_id": f"p{number}", "title": "", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        file.writelines(json.dumps({"_id": f"q{n}", "text": f"question {n}"}) + "\n" for n in range(size // 2))
    splits = {"train": range(size // 2 - 2000), "dev": range(size // 2 - 2000, size // 2 - 1000)}
    splits["test"] = range(size // 2 - 1000, size // 2)
    for split, numbers in splits.items():
        with (folder / "qrels" / f"{split}.tsv").open("w") as file:
            file.write("query-id\tcorpus-id\tscore\n")
            file.writelines(f"q{n}\tp{2 * n + 1}\t1\n" for n in numbers)


def _to_parquet(folder: Path) -> None:
    import pyarrow.csv as pc
    import pyarrow.json as pj
    import pyarrow.parquet as pq

    for name in ("corpus", "queries"):
        lines = folder / f"{name}.jsonl"
        blocks = pj.open_json(lines, read_options=pj.ReadOptions(block_size=2**24))
        with pq.ParquetWriter(folder / f"{name}.parquet", blocks.schema) as writer:
            for block in blocks:
                writer.write_batch(block)
        lines.unlink()
    for lines in list((folder / "qrels").iterdir()):
        pq.write_table(pc.read_csv(lines, parse_options=pc.ParseOptions(delimiter="\t")), lines.with_suffix(".parquet"))
        lines.unlink()


def _run_in_process(system: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", system, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        raise SystemExit(process.stderr)
    measured: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return measured


def _measure(system: str, folder: Path) -> dict[str, float]:
    import great_expectations  # noqa: F401  (imported before timing: seven seconds)

    from tasks.core.base.memory import Peak

    start = time.perf_counter()
    before = os.times()
    with Peak() as peak:  # excludes memory inherited from the parent process
        figures = _nightshift(folder) if system == "nightshift" else _gx(folder)
    seconds = time.perf_counter() - start
    after = os.times()
    cpu = after.user + after.system - before.user - before.system
    return {
        **figures,
        "seconds": seconds,
        "cpu": cpu,
        "rows_per_second": figures["passages"] / seconds,
        "peak_mib": peak.mb,
    }


def _nightshift(folder: Path) -> dict[str, float]:
    from tasks.core.base.sections.data import DataSettings
    from tasks.core.base.settings import Settings
    from tasks.core.ingest.ingest import ingest

    timed = _time_keys()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        ingested, snapshot = ingest(
            Settings(home=Path(home), data=DataSettings(format=_format_of(folder), path=folder))
        )
    refused = sum(r.failed for r in ingested.rules if r.table == "passages" and r.severity == "error")
    return {"passages": snapshot.rows + refused, "bad_rows": refused, "keys_seconds": timed["qrels"]}


def _format_of(folder: Path) -> str:
    return "parquet" if (folder / "corpus.parquet").exists() else "beir"


def _time_keys() -> dict[str, float]:
    """Record the seconds of staging each table; for qrels, most of it is the look-up of both foreign keys."""
    from tasks.core.ingest import decision

    seconds: dict[str, float] = {}
    stage = decision.stage_source

    def timed(connection, contract, batches, scratch):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        stage(connection, contract, batches, scratch)
        seconds[contract.table] = time.perf_counter() - start

    decision.stage_source = timed
    return seconds


def _gx(folder: Path) -> dict[str, float]:
    """Validate the passages with the rules on single passages and ids."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    parquet = _format_of(folder) == "parquet"
    frame = (
        pd.read_parquet(folder / "corpus.parquet")
        if parquet
        else pd.read_json(folder / "corpus.jsonl", lines=True, dtype=False)
    )
    mojibake = r"Ã[\x80-\xbf]|Â[\xa0-\xbf]|â€|ï»¿|ðŸ"
    markup = r"(?i)</?(a|b|i|p|br|div|span|table|tr|td|th|ul|ol|li|h[1-6])(\s[^<>]*)?/?>|&(nbsp|amp|lt|gt|quot|#\d+);"
    boilerplate = r"(?i)all rights reserved|accept (all )?cookies|enable javascript|skip to (main )?content|lorem ipsum"
    rules = [
        gxe.ExpectColumnValuesToNotBeNull(column="_id"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="_id", min_value=1, max_value=512),
        gxe.ExpectColumnValuesToNotMatchRegex(column="_id", regex=r"\s"),
        gxe.ExpectColumnValuesToBeUnique(column="_id"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="title", max_value=2000),
        gxe.ExpectColumnValuesToNotMatchRegex(column="title", regex=r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
        gxe.ExpectColumnValuesToNotBeNull(column="text"),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex=VISIBLE),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=10, max_value=1_000_000),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=NUL),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex="\ufffd"),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=mojibake),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=markup),
        gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=boilerplate),
        gxe.ExpectColumnValueLengthsToBeBetween(column="text", min_value=5, max_value=2048 * 4),
        gxe.ExpectColumnValuesToBeUnique(column="text"),
    ]
    asset = gx.get_context(mode="ephemeral").data_sources.add_pandas("p").add_dataframe_asset("a")
    batch = asset.add_batch_definition_whole_dataframe("b").get_batch({"dataframe": frame})
    shape = {"result_format": "COMPLETE", "exclude_unexpected_values": True, "return_unexpected_index_query": False}
    outcome = batch.validate(gx.ExpectationSuite("s", expectations=rules), result_format=shape)
    bad: set[int] = set()
    for result in outcome.results:
        assert not result.exception_info.get("raised_exception", True), result.exception_info
        if (
            result.expectation_config.kwargs["column"] == "text"
            and result.expectation_config.kwargs.get("regex") in SEVERE
        ):
            bad.update(result.result.get("unexpected_index_list") or [])
    return {"passages": len(frame), "bad_rows": len(bad)}


def _remove_folder(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _compare(runs: dict[str, dict[str, float]], small: int, large: int) -> dict[str, float]:
    ours, peer, small_run = runs[f"nightshift-{large}"], runs[f"gx-{large}"], runs[f"nightshift-{small}"]
    return {
        "speed_ratio": ours["rows_per_second"] / peer["rows_per_second"],
        "memory_ratio": ours["peak_mib"] / peer["peak_mib"],
        "memory_growth": ours["peak_mib"] / small_run["peak_mib"],
        "keys_seconds": ours["keys_seconds"],
        "bad_rows_missed": large // BAD_EVERY - ours["bad_rows"],
    }


def _format_table(runs: dict[str, dict[str, float]], ratios: dict[str, float]) -> str:
    lines = [f"{'run':<22}{'seconds':>9}{'CPU s':>9}{'rows/s':>10}{'peak MiB':>10}{'bad rows':>10}"]
    for name, run in runs.items():
        lines.append(
            f"{name:<22}{run['seconds']:>9.1f}{run['cpu']:>9.1f}{run['rows_per_second']:>10,.0f}"
            f"{run['peak_mib']:>10,.0f}{run['bad_rows']:>10,.0f}"
        )
    lines += [
        f"speed {ratios['speed_ratio']:.2f}x (goal 2), memory {ratios['memory_ratio']:.2f}x (goal 0.3)",
        f"peak memory compared with the small run {ratios['memory_growth']:.2f}x (goal: 1.0x)",
        f"staging qrels with both foreign keys {ratios['keys_seconds']:.2f} s (goal 2 s)",
        f"bad rows missed {ratios['bad_rows_missed']:.0f}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
