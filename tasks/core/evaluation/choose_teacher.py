"""Open the teacher that the settings name; a blend is tuned on dev queries as the ranking of a release is."""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.evaluation.tune import tune_ranking
from tasks.core.mining.check_teacher import CheckedTeacher, CheckInputs
from tasks.core.mining.teachers import blend_teacher, cross_encoder_teacher, encoder_teacher
from tasks.core.retrieval.postings import build_postings


def choose_teacher(
    home: Path,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    mining: MiningSettings,
    evaluation: EvaluationSettings,
) -> CheckedTeacher | None:
    """Return the teacher of `[mining.teacher]`; None if the source is "none".

    The weight of a blend is that of a hybrid release of this encoder. It is never 0 or 1: if one retriever alone ranks
    the dev queries best, it is the default weight.

    Args:
        home: folder of the artifacts.
        encoder: the encoder that mines.
        embeddings: its passage vectors.
        snapshot: passages and queries.
        mining: names the teacher.
        evaluation: rules of the tuning.

    Raises:
        NightshiftError: the model cannot be used, or Java failed.
    """
    if mining.teacher.source == "none":
        return None
    postings = build_postings(home, snapshot, mining.language, mining.stemmer)
    bm25 = Ranking(
        weight=0, postings=postings.digest, language=mining.language, stemmer=mining.stemmer, k1=mining.k1, b=mining.b
    )
    if mining.teacher.source == "blend":
        hybrid = evaluation.model_copy(update={"ranking": "hybrid"})
        ranking, _ = tune_ranking(home, encoder, embeddings, snapshot, postings, mining, hybrid)
        teacher = blend_teacher(embeddings, postings, ranking)
    elif mining.teacher.source == "cross-encoder":
        teacher = cross_encoder_teacher(snapshot, mining.cross_encoder)
    else:
        teacher = encoder_teacher(snapshot, mining.teacher)
    inputs = CheckInputs(home, snapshot, encoder, embeddings, postings, bm25, evaluation.leave_out_self)
    return CheckedTeacher(teacher, inputs)
