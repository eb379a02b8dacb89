"""Validates and snapshots generated passages and qrels, beside Great Expectations' pandas engine on the same file.

    python tests/benchmarks/contracts.py [--json] [--passages 1000000] [--small 100000] [--jsonl]

Each contestant runs in a process of its own and reads the same Parquet file (or JSON lines, with --jsonl). Ours reads,
validates all four tables, looks for near duplicates, writes quarantine, snapshot and pages; the peer reads the passages
and runs those of the passage rules that it can express, over the full texts.
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
BAD_EVERY = 1_000  # one passage in so many is bad, by one of these
VISIBLE, NUL = "[^\\s\u200b]", r"\x00"
SEVERE = (VISIBLE, NUL)
BAD_TEXTS = ("", " \u200b ", "binary \0 data in a text")


def main() -> None:
    """Run all contestants and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--passages", type=int, default=1_000_000)
    arguments.add_argument("--small", type=int, default=100_000)
    arguments.add_argument("--jsonl", action="store_true", help="a BEIR folder instead of Parquet files")
    arguments.add_argument("--one", nargs=2, metavar=("CONTESTANT", "FOLDER"), help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.one:
        print(json.dumps(_measured(chosen.one[0], Path(chosen.one[1]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for size in (chosen.small, chosen.passages):
            folder = Path(scratch) / str(size)
            _generate(folder, size)
            if not chosen.jsonl:
                _to_parquet(folder)
            for contestant in ("nightshift", "gx"):
                found[f"{contestant}-{size}"] = _in_a_process(contestant, folder)
            _remove(folder)
    verdict = _compared(found, chosen.small, chosen.passages)
    print(json.dumps({"runs": found, **verdict}, indent=2) if chosen.json else _table(found, verdict))


def _generate(folder: Path, size: int) -> None:
    """A BEIR folder: passages of 60 to 200 words, a query for every second one, half as many qrels as passages."""
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


def _in_a_process(contestant: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", contestant, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _measured(contestant: str, folder: Path) -> dict[str, float]:
    import great_expectations  # noqa: F401  (its seven seconds of import are no work of either)

    from tasks.core.base.memory import Peak

    start = time.perf_counter()
    before = os.times()
    with Peak() as peak:  # not what this process inherited from the one that generated the files
        figures = _nightshift(folder) if contestant == "nightshift" else _gx(folder)
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
    from tasks.core.base.settings import DataSettings, Settings
    from tasks.core.ingest.ingest import ingest

    timed = _time_keys()
    with tempfile.TemporaryDirectory(dir=folder) as home:
        ingested, snapshot = ingest(Settings(home=Path(home), data=DataSettings(format=_form(folder), path=folder)))
    refused = sum(r.failed for r in ingested.rules if r.table == "passages" and r.severity == "error")
    return {"passages": snapshot.rows + refused, "bad_rows": refused, "keys_seconds": timed["qrels"]}


def _form(folder: Path) -> str:
    return "parquet" if (folder / "corpus.parquet").exists() else "beir"


def _time_keys() -> dict[str, float]:
    """Time how long each table takes to be read and measured: of qrels, the look-up of both foreign keys above all."""
    from tasks.core.ingest import decision as acceptance

    took: dict[str, float] = {}
    stage = acceptance.stage_source

    def timed(connection, contract, batches, scratch):  # type: ignore[no-untyped-def]
        start = time.perf_counter()
        stage(connection, contract, batches, scratch)
        took[contract.table] = time.perf_counter() - start

    acceptance.stage_source = timed
    return took


def _gx(folder: Path) -> dict[str, float]:
    """The same rules about single passages and their ids, over the texts."""
    import great_expectations as gx
    import pandas as pd
    from great_expectations import expectations as gxe

    parquet = _form(folder) == "parquet"
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
    for one in outcome.results:
        assert not one.exception_info.get("raised_exception", True), one.exception_info
        if one.expectation_config.kwargs["column"] == "text" and one.expectation_config.kwargs.get("regex") in SEVERE:
            bad.update(one.result.get("unexpected_index_list") or [])
    return {"passages": len(frame), "bad_rows": len(bad)}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def _compared(found: dict[str, dict[str, float]], small: int, large: int) -> dict[str, float]:
    ours, peer, less = found[f"nightshift-{large}"], found[f"gx-{large}"], found[f"nightshift-{small}"]
    return {
        "speed_ratio": ours["rows_per_second"] / peer["rows_per_second"],
        "memory_ratio": ours["peak_mib"] / peer["peak_mib"],
        "memory_growth": ours["peak_mib"] / less["peak_mib"],
        "keys_seconds": ours["keys_seconds"],
        "bad_rows_missed": large // BAD_EVERY - ours["bad_rows"],
    }


def _table(found: dict[str, dict[str, float]], verdict: dict[str, float]) -> str:
    lines = [f"{'run':<22}{'seconds':>9}{'CPU s':>9}{'rows/s':>10}{'peak MiB':>10}{'bad rows':>10}"]
    for name, one in found.items():
        lines.append(
            f"{name:<22}{one['seconds']:>9.1f}{one['cpu']:>9.1f}{one['rows_per_second']:>10,.0f}"
            f"{one['peak_mib']:>10,.0f}{one['bad_rows']:>10,.0f}"
        )
    lines += [
        f"speed {verdict['speed_ratio']:.2f}x (goal 2), memory {verdict['memory_ratio']:.2f}x (goal 0.3)",
        f"peak memory against the small run {verdict['memory_growth']:.2f}x (goal: flat)",
        f"qrels read and measured, with both foreign keys {verdict['keys_seconds']:.2f} s (goal 2)",
        f"bad rows missed {verdict['bad_rows_missed']:.0f}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
