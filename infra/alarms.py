"""Who is told when a night goes wrong, and what counts as wrong."""

from __future__ import annotations

from datetime import timedelta
from statistics import median
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock, NotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

BLOCK = "nightshift-alerts"
ENDS = {f"prefect.flow-run.{name}" for name in ("Promoted", "Rejected", "Skipped", "Suspect")}
FAULTS = {f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "TimedOut")}
CANCELLED = {"prefect.flow-run.Cancelled", "prefect.flow-run.Cancelling"}
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.nightshift"}
A_NIGHT = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.release"}
NEVER_RUN = timedelta(hours=3)  # how long a night is taken to last before one has run
LEAST = timedelta(minutes=10)  # an alarm for a night that usually lasts seconds would be noise
SEEN = 60  # newest nights that the usual length is taken from

SUBJECT = "Nightshift: {{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"


def alert_block(url: str) -> UUID:
    """Save the address as a notification block, its secret part encrypted; the block's id."""
    block: NotificationBlock
    if "hooks.slack.com" in url:
        block = SlackWebhook(url=SecretStr(url))
    else:
        told = {"text": "{{subject}}\n{{body}}", "subject": "{{subject}}", "body": "{{body}}"}
        secrets = {"address": url}
        block = CustomWebhookNotificationBlock(name=BLOCK, url="{{address}}", json_data=told, secrets=secrets)
    saved = block.save(BLOCK, overwrite=True)
    assert isinstance(saved, UUID)
    return saved


def usual_night(client: SyncPrefectClient) -> timedelta:
    """How long the newest nights took that did the whole work, in the middle: those with nothing to do say nothing."""
    runs = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=["nightly"])), sort=FlowRunSort.START_TIME_DESC, limit=SEEN
    )
    whole = [run for run in runs if run.state and run.state.name in ("Promoted", "Rejected")]
    lengths = [run.total_run_time.total_seconds() for run in whole]
    return max(LEAST, timedelta(seconds=median(lengths))) if lengths else NEVER_RUN


def alarms(block: UUID, usual: timedelta) -> list[AutomationCore]:
    """Failed or crashed, rejected or suspect, overdue, not started, and no night at all."""
    send = SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)
    run = {"prefect.resource.id": "prefect.flow-run.*"}
    each = {"prefect.resource.id"}
    return [
        AutomationCore(
            name="Nightshift: failed or crashed",
            description="A run of Nightshift ended with a fault. What served still serves.",
            trigger=EventTrigger(match=run, match_related=OURS, expect=FAULTS, posture=Posture.Reactive, threshold=1),
            actions=[send],
        ),
        AutomationCore(
            name="Nightshift: rejected or suspect",
            description="The gate kept the challenger out, or the input looks broken. What served still serves.",
            trigger=EventTrigger(
                match=run,
                match_related=OURS,
                expect={"prefect.flow-run.Rejected", "prefect.flow-run.Suspect"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[send],
        ),
        AutomationCore(
            name="Nightshift: overdue",
            description=f"A night runs for twice as long as usual ({usual}), and has not ended.",
            trigger=EventTrigger(
                match=run,
                match_related=A_NIGHT,
                after={"prefect.flow-run.Running"},
                expect=ENDS | FAULTS | CANCELLED | {"prefect.flow-run.Completed"},
                for_each=each,
                posture=Posture.Proactive,
                threshold=1,
                within=2 * usual,
            ),
            actions=[send],
        ),
        AutomationCore(
            name="Nightshift: not started",
            description="A run was handed to a worker and did not begin within ten minutes. Is the worker alive?",
            trigger=EventTrigger(
                match=run,
                match_related=OURS,
                after={"prefect.flow-run.Pending", "prefect.flow-run.Late"},
                expect={"prefect.flow-run.Running"} | FAULTS | CANCELLED,
                for_each=each,
                posture=Posture.Proactive,
                threshold=1,
                within=LEAST,
            ),
            actions=[send],
        ),
        AutomationCore(
            name="Nightshift: no night for two days",
            description="No night has ended well for two days, for whatever reason.",
            trigger=EventTrigger(
                match=run,
                match_related=A_NIGHT,
                expect=ENDS,
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(days=2),
            ),
            actions=[
                SendNotification(
                    block_document_id=block,
                    subject="Nightshift: no night for two days",
                    body="No night was promoted, rejected or skipped. Is the worker alive, is the schedule on?",
                )
            ],
        ),
    ]
