"""Prefect retries only temporary failures."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import task
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed

from tasks.core.base.errors import Mismatch, StaleNight, Unreachable
from tasks.policy import transport_fault


@task
def publish() -> None: ...


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (Unreachable("Milvus does not answer"), True),
        (TimeoutError(), True),
        (Mismatch("not the encoder's vectors"), False),
        (StaleNight("another release went live"), False),
        (ValueError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_unreachable_services_are_retried_and_the_log_has_the_reason(
    error: Exception, retried: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run: Any = TaskRun.model_construct(name="publish 7316")
    assert transport_fault(publish, run, Failed(data=error)) is retried
    reason = str(error) or type(error).__name__
    expected = [f"publish 7316 failed and will be tried again: {reason}"] if retried else []
    assert [record.message for record in caplog.records if record.name == "nightshift.night"] == expected
