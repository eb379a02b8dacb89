"""Alarms: which events of nights raise them, and the webhook that receives them."""

from __future__ import annotations

from datetime import timedelta
from statistics import median
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock, NotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from flows.alerts import is_slack, message
from tasks.core.report.outcomes import Outcome

BLOCK = "nightshift-alerts"
ENDS = {f"prefect.flow-run.{outcome}" for outcome in Outcome if outcome not in (Outcome.RUNNING, Outcome.FAILED)}
FAULTS = {f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "TimedOut")}
CANCELLED = {"prefect.flow-run.Cancelled", "prefect.flow-run.Cancelling"}
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.nightshift"}
A_NIGHT = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.release"}
A_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
EACH_RUN = {"prefect.resource.id"}
NEVER_RUN = timedelta(hours=3)  # how long a night is taken to last before one has run
LEAST = timedelta(minutes=10)  # an alarm for a night that usually lasts seconds would be noise
SEEN = 60  # newest nights that the usual length is taken from

SUBJECT = "Nightshift: {{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def alert_block(url: str) -> UUID:
    """Save the address as a notification block, its secret part encrypted; the block's id."""
    block: NotificationBlock
    if is_slack(url):
        block = SlackWebhook(url=SecretStr(url))
    else:
        form = message(url, "{{subject}}", "{{body}}")
        secrets = {"address": url}
        block = CustomWebhookNotificationBlock(name=BLOCK, url="{{address}}", json_data=form, secrets=secrets)
    saved = block.save(BLOCK, overwrite=True)
    assert isinstance(saved, UUID)
    return saved


def usual_night(client: SyncPrefectClient) -> timedelta:
    """How long the newest nights took that did the whole work, in the middle: those with nothing to do say nothing."""
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["nightly"])), sort=FlowRunSort.START_TIME_DESC, limit=SEEN
    )
    whole = [run for run in runs if run.state and run.state.name in (Outcome.PROMOTED, Outcome.REJECTED)]
    lengths = [run.total_run_time.total_seconds() for run in whole]
    return max(LEAST, timedelta(seconds=median(lengths))) if lengths else NEVER_RUN


def alarms(block: UUID, usual: timedelta) -> list[AutomationCore]:
    """Failed or crashed, rejected or suspect or in need of labels, overdue, not started, and no night at all."""
    send = SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)
    ended = ENDS | FAULTS | CANCELLED | {"prefect.flow-run.Completed"}
    nothing = SendNotification(
        block_document_id=block,
        subject="Nightshift: no night for two days",
        body="No night was promoted, rejected or skipped. Is the worker alive, is the schedule on?",
    )
    return [
        _alarm(
            "failed or crashed",
            "A run of Nightshift ended with a fault. What served still serves.",
            send,
            Posture.Reactive,
            match_related=OURS,
            expect=FAULTS,
        ),
        _alarm(
            "rejected or suspect",
            "The gate rejected the challenger, the input looks broken, or labels are needed. What served still serves.",
            send,
            Posture.Reactive,
            match_related=OURS,
            expect={
                f"prefect.flow-run.{outcome}" for outcome in (Outcome.REJECTED, Outcome.SUSPECT, Outcome.UNLABELED)
            },
        ),
        _alarm(
            "overdue",
            f"A night runs for twice as long as usual ({usual}), and has not ended.",
            send,
            Posture.Proactive,
            match_related=A_NIGHT,
            after={"prefect.flow-run.Running"},
            expect=ended,
            for_each=EACH_RUN,
            within=2 * usual,
        ),
        _alarm(
            "not started",
            "A run was handed to a worker and did not begin within ten minutes. Is the worker alive?",
            send,
            Posture.Proactive,
            match_related=OURS,
            after={"prefect.flow-run.Pending", "prefect.flow-run.Late"},
            expect={"prefect.flow-run.Running"} | FAULTS | CANCELLED,
            for_each=EACH_RUN,
            within=LEAST,
        ),
        _alarm(
            "no night for two days",
            "No night has ended well for two days, for any reason.",
            nothing,
            Posture.Proactive,
            match_related=A_NIGHT,
            expect=ENDS,
            within=timedelta(days=2),
        ),
    ]


def _alarm(name: str, about: str, action: SendNotification, posture: Posture, **trigger: Any) -> AutomationCore:
    """One event about a run, or the lack of one, is enough."""
    watch = EventTrigger(match=A_RUN, posture=posture, threshold=1, **trigger)
    return AutomationCore(name=f"Nightshift: {name}", description=about, trigger=watch, actions=[action])
