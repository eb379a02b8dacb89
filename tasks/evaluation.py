"""Tasks that evaluate encoders and decide on promotion."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Postings, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.evaluation import probe as pools
from tasks.core.evaluation.evaluate import evaluate_ranked, evaluate_ranking, release_run
from tasks.core.evaluation.evidence import gather_evidence
from tasks.core.evaluation.gate import Decision, Probe, decide
from tasks.core.evaluation.systems import System
from tasks.core.evaluation.tune import Tuned, keep_ranking, tune_ranking
from tasks.core.snapshot.held_out import held_out
from tasks.policy import STEP


@task(name="tune", task_run_name="tune the ranking of the {system}", **STEP)
def tune(
    settings: Settings,
    system: str,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    postings: Postings,
) -> Tuned:
    """Choose on the dev queries how a release of this encoder ranks. `system` names the encoder in the log."""
    mining, evaluation = settings.mining, settings.evaluation
    return tune_ranking(settings.home, encoder, embeddings, snapshot, postings, mining, evaluation, system=system)


@task(name="tune", task_run_name="keep the ranking of {serving.release}", **STEP)
def ranking_of_refresh(
    settings: Settings,
    serving: Release,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    postings: Postings,
) -> Tuned:
    """Keep the ranking of the serving release; choose it again only if `[evaluation] ranking` requires that."""
    kept = keep_ranking(settings.home, serving, snapshot, settings.evaluation)
    if kept is not None:
        return kept
    return tune_ranking(settings.home, encoder, embeddings, snapshot, postings, settings.mining, settings.evaluation)


@task(name="evaluate", task_run_name="evaluate {system}", **STEP)
def evaluate(
    settings: Settings, system: System, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot, ranking: Ranking
) -> Evaluation:
    """Evaluate the ranking of a release, or of one that may be made, on the held-out queries with exact search."""
    return evaluate_ranked(settings.home, system, encoder, embeddings, snapshot, ranking, settings.evaluation)


@task(name="evaluate-bm25", task_run_name="evaluate BM25", **STEP)
def evaluate_bm25(settings: Settings, run: Run, snapshot: Snapshot) -> Evaluation:
    """Evaluate BM25 on the held-out queries."""
    return evaluate_ranking(settings.home, System.BM25, run, snapshot, settings.evaluation)


@task(name="probe", task_run_name="probe {challenger.fingerprint}", **STEP)
def probe(
    settings: Settings,
    snapshot: Snapshot,
    challenger: Encoder,
    rival: Encoder,
    vectors: Embeddings,
    bm25: Run,
    serving: Release | None,
) -> Probe:
    """Compare challenger and rival (serving encoder or base model) on a pool of passages, before embedding them all."""
    rules = settings.evaluation
    queries = held_out(snapshot, rules.split, rules.max_queries).queries
    dense = release_run(settings.home, rules.split, queries, rival, vectors, DENSE, rules.depth)
    name = "the serving release" if serving else "the base model"
    served = None if serving is None else serving.ranking
    return pools.probe(settings, snapshot, challenger, rival, name, (bm25, dense), served)


@task(name="gate", task_run_name="gate", **STEP)
def gate(
    settings: Settings,
    figures: dict[System, Evaluation],
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    ranking: Ranking,
    serving: Release | None,
    *,
    trained: bool,
    withdrawn: str | None,
) -> Decision:
    """Promote or reject the challenger, with reasons.

    Args:
        trained: Whether the challenger was trained tonight. Only then is BM25 a floor, are `min_queries` required, and
            is a tie with the base model a reason to reject.
        withdrawn: Release of the same parts that a user rolled back, if any.
    """
    rules = settings.gate if trained else settings.gate.model_copy(update={"bm25_floor": False, "min_queries": 1})
    evidence = gather_evidence(
        *(settings.home, figures, encoder, embeddings, snapshot, ranking, serving, rules),
        withdrawn=withdrawn,
        trained=trained,
    )
    decision = decide(evidence, rules)
    report.evaluation_table(decision, figures)
    return decision
