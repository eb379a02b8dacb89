"""Keeps the consistent candidates: those whose query retrieves its passage from all candidates.

The round-trip consistency filter of Promptagator (Dai et al. 2022, arXiv:2209.11755, section 3.2): a retriever searches
the query, and the pair is kept if its passage is among the best `top`. Promptagator trains a retriever for this, and
uses `top` = 1. We search with BM25 and with the base model, and keep a pair if either returns it, because each misses
pairs that the other returns.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import BadInput
from tasks.core.base.files import produce
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.base.sections.synthetic import SyntheticSettings
from tasks.core.base.synthetic_receipts import Synthesis
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.counts import count_rows
from tasks.core.snapshot.reader import GIVEN_NEGATIVES, PASSAGES, QRELS, QUERIES, qrels, queries
from tasks.core.snapshot.splits import SYNTHETIC, Split
from tasks.core.synthesis.candidates import longest_group, read_candidates
from tasks.core.text.normalization import uniform

log = logging.getLogger("nightshift.synthesis")

VERSION = 1  # increase when the same runs would keep other pairs
PAIRS = "pairs.parquet"
INCONSISTENT = "inconsistent"  # the rule of this module


def search_depth(candidates: Snapshot, settings: SyntheticSettings) -> int:
    """Return the depth of the two runs: `top`, and room for the other candidates of the same passage."""
    return settings.top + longest_group(candidates) - 1


def filter_candidates(
    home: Path, snapshot: Snapshot, candidates: Snapshot, bm25: Run, dense: Run, settings: SyntheticSettings
) -> Synthesis:
    """Keep the candidates that BM25 or the base model ranks among the best `top`, and assign their splits.

    Other candidates of the same passage are no competitors: they are skipped when ranks are counted. A share `held_out`
    of the passages, drawn by the hash of their ids, gets the split "synthetic"; the rest is the train split.

    Args:
        home: folder of the artifacts.
        snapshot: the passages.
        candidates: made from `snapshot`.
        bm25, dense: runs of the candidates' queries over the candidates, `search_depth` deep.
        settings: `[synthetic]`.

    Raises:
        BadInput: no candidate is consistent, or the snapshot has a split named "synthetic".
    """
    if SYNTHETIC in snapshot.splits:
        raise BadInput(f'the source has a split named "{SYNTHETIC}", which is reserved for made-up queries: rename it')
    key = {
        "version": VERSION,
        "candidates": candidates.digest,
        "runs": [bm25.digest, dense.digest],
        "top": settings.top,
        "held_out": settings.held_out,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        table = read_candidates(candidates)
        passage_of = dict(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
        ranks = {name: _own_ranks(run, passage_of, settings.top) for name, run in (("bm25", bm25), ("dense", dense))}
        rows = table.to_pylist()
        for row in rows:
            row |= {f"{name}_rank": own.get(row["query_id"], 0) for name, own in ranks.items()}
            row["rule"] = row["rule"] or ("" if row["bm25_rank"] or row["dense_rank"] else INCONSISTENT)
            row["split"] = "" if row["rule"] else _split(row["passage_id"], settings.held_out)
        kept = [row for row in rows if not row["rule"]]
        if not any(row["split"] == Split.TRAIN for row in kept):
            raise BadInput(
                f"no training pair is left: none of {len(rows):,} candidates is consistent. Raise [synthetic] top, set "
                "[generate] url and model, or add labeled queries."
            )
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), folder / PAIRS, compression="zstd")
        return {
            "rows": len(rows),
            "snapshot": snapshot.digest,
            "passages": len(set(passage_of.values())),
            "kept": dict(sorted(Counter(row["origin"] for row in kept).items())),
            "dropped": dict(sorted(Counter(row["rule"] for row in rows if row["rule"]).items())),
            "held_out": sum(row["split"] == SYNTHETIC for row in kept),
            "parents": (snapshot.digest, candidates.digest, bm25.digest, dense.digest),
        }

    synthesis = produce(home, Synthesis, key, build)
    log.info("%s", synthesis.summary)
    return synthesis


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("query_id", "passage_id", "origin", "query", "rule")),
        ("bm25_rank", pa.int32()),
        ("dense_rank", pa.int32()),
        ("split", pa.string()),
    ]
)


def _own_ranks(run: Run, passage_of: Mapping[str, str], top: int) -> dict[str, int]:
    """Map each query to the rank of its own passage among the passages of other candidates, if it is at most `top`."""
    ranks: dict[str, int] = {}
    ahead: Counter[str] = Counter()  # hits of other passages
    with pq.ParquetFile(run.path / RUN_FILE) as file:
        for batch in file.iter_batches(columns=["query_id", "passage_id"]):
            for query, hit in zip(batch["query_id"].to_pylist(), batch["passage_id"].to_pylist(), strict=True):
                if query == hit:
                    ranks.setdefault(query, ahead[query] + 1)
                elif passage_of[hit] != passage_of[query]:
                    ahead[query] += 1
    return {query: rank for query, rank in ranks.items() if rank <= top}


def _split(passage_id: str, held_out: float) -> str:
    return SYNTHETIC if uniform(f"{SYNTHETIC}:{passage_id}") < held_out else Split.TRAIN


def with_synthetic_pairs(home: Path, snapshot: Snapshot, synthesis: Synthesis) -> Snapshot:
    """Return a snapshot with the passages, queries, and qrels of `snapshot`, and the kept synthetic pairs."""

    def build(folder: Path) -> Mapping[str, Any]:
        shutil.copyfile(snapshot.path / PASSAGES, folder / PASSAGES)
        pairs = pq.read_table(synthesis.path / PAIRS)
        pairs = pairs.filter(pc.equal(pairs["rule"], ""))
        made = pa.table({"query_id": pairs["query_id"], "text": pairs["query"]})
        judged = qrels(snapshot)
        made_qrels = pa.table(
            {
                "query_id": pairs["query_id"],
                "passage_id": pairs["passage_id"],
                "relevance": pa.array(np.ones(pairs.num_rows, np.int32)),
                "split": pairs["split"],
            }
        ).select(judged.schema.names)
        labeled = queries(snapshot)
        texts = pa.concat_tables([labeled, made.cast(labeled.schema)]).sort_by("query_id")
        both = pa.concat_tables([judged, made_qrels.cast(judged.schema)])
        both = both.sort_by([(name, "ascending") for name in ("split", "query_id", "passage_id")])
        pq.write_table(texts, folder / QUERIES, compression="zstd", row_group_size=32768)
        pq.write_table(both, folder / QRELS, compression="zstd", row_group_size=32768)
        if snapshot.given_negatives:
            shutil.copyfile(snapshot.path / GIVEN_NEGATIVES, folder / GIVEN_NEGATIVES)
        return count_rows(folder) | {"parents": (snapshot.digest, synthesis.digest)}

    return produce(home, Snapshot, {"passages": snapshot.digest, "synthesis": synthesis.digest}, build)
