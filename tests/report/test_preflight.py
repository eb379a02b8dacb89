"""Problems that a night detects before hours of work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.files import digest_of
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.sections.mining import CrossEncoderSettings, MiningSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.ingest.data_warnings import data_warnings
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.source_summary import summarize_source
from tasks.core.report.night import recipe_of
from tasks.core.report.preflight import check_side_files, check_teacher_settings


def test_files_needed_late_in_a_night_are_checked_at_its_start(tmp_path: Path, tiny_model: Path) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text('\ufeff{"query": "what do books write of gold", "passage_id": "p2"}\n', encoding="utf-8")
    check_side_files(golden, EncoderSettings(model=str(tiny_model)), CrossEncoderSettings())
    golden.write_text("what do books write of gold\n")
    with pytest.raises(BadInput, match=r"golden\.jsonl, line 1: not JSON"):
        check_side_files(golden, EncoderSettings(), CrossEncoderSettings())
    with pytest.raises(NightshiftError, match=r"no config\.json in it"):
        check_side_files(None, EncoderSettings(model=str(tmp_path)), CrossEncoderSettings())
    with pytest.raises(NightshiftError, match=r"\[mining.cross_encoder\] model"):
        check_side_files(None, EncoderSettings(), CrossEncoderSettings(model=str(tmp_path)))


def test_a_loss_that_distills_needs_a_teacher(tmp_path: Path) -> None:
    kl, blend = TrainingSettings(loss="kl"), MiningSettings.model_validate({"teacher": {"source": "blend"}})
    check_teacher_settings(MiningSettings(), TrainingSettings())
    check_teacher_settings(blend, kl)
    with pytest.raises(BadInput, match=r"Set \[mining.teacher\] source"):
        check_teacher_settings(MiningSettings(), kl)
    missing = MiningSettings.model_validate({"teacher": {"source": "encoder", "model": str(tmp_path)}})
    with pytest.raises(NightshiftError, match=r"no config\.json in it"):
        check_teacher_settings(missing, kl)


def test_recipes_without_a_teacher_do_not_depend_on_its_settings(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    mining = settings.mining.model_dump(exclude={"language", "shards", "scorer", "threads", "heap_mb", "teacher"})
    before = {
        "encoder": settings.encoder.recipe(),
        "mining": mining,
        "training": settings.training.recipe(),
        "embedding": settings.embedding.numeric(),
    }
    assert recipe_of(settings) == digest_of(before)
    taught = MiningSettings.model_validate({"teacher": {"source": "blend"}})
    assert recipe_of(settings.model_copy(update={"mining": taught})) != recipe_of(settings)


def test_few_queries_and_truncated_passages_cause_warnings(
    tmp_path: Path, collection: Callable[..., Path], tiny_model: Path
) -> None:
    source = collection()
    data = DataSettings(format="beir", path=source)
    settings = Settings(home=tmp_path, data=data, encoder=EncoderSettings(model=str(tiny_model), passage_tokens=8))
    _, snapshot = ingest(settings)
    few, cut = data_warnings(snapshot, settings.evaluation.split, settings.encoder, settings.milvus)
    assert few.startswith("split test has 20 held-out queries, fewer than 100")
    assert cut.startswith("[encoder] passage_tokens = 8 cuts 100% of the passages")
    roomy = settings.model_copy(update={"encoder": EncoderSettings(model=str(tiny_model))})
    assert len(data_warnings(snapshot, roomy.evaluation.split, roomy.encoder, roomy.milvus)) == 1
    assert summarize_source(str(source)).warnings == [few]
    (source / "qrels" / "test.tsv").unlink()
    drawn = summarize_source(str(source)).warnings[0]
    assert drawn.startswith("split test has about 3 held-out queries")  # a tenth of 36
