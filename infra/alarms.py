"""Alarms: the events of nights that raise them, and the webhook that receives them."""

from __future__ import annotations

from datetime import timedelta
from statistics import median
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import CustomWebhookNotificationBlock, NotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from flows.alerts import is_slack, message
from flows.collections import tag_of
from infra.side_by_side import tag_resource
from tasks.core.report.outcomes import Outcome

BLOCK = "nightshift-alerts"
ENDS = {f"prefect.flow-run.{outcome}" for outcome in Outcome if outcome not in (Outcome.RUNNING, Outcome.FAILED)}
FAULTS = {f"prefect.flow-run.{name}" for name in ("Failed", "Crashed", "TimedOut")}
CANCELLED = {"prefect.flow-run.Cancelled", "prefect.flow-run.Cancelling"}
OURS = tag_resource("nightshift")
A_NIGHT = tag_resource("release")
A_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
EACH_RUN = {"prefect.resource.id"}
NEVER_RUN = timedelta(hours=3)  # assumed duration of a night before the first night has run
LEAST = timedelta(minutes=10)  # shorter limits would raise alarms for delays of seconds
RECENT = 60  # newest nights to compute the usual duration from

SUBJECT = "Nightshift: {{ flow_run.name }}: {{ flow_run.state.name }}"
BODY = "{{ flow_run.state.message }}\n{{ flow_run|ui_url }}"
# Prefect writes the message about a killed process, and it has no next step.
FAILED_BODY = (
    "{{ flow_run.state.message }}\nSearches still get the last complete release. The next run resumes after the last "
    "finished step. To run it now: nightshift run\n{{ flow_run|ui_url }}"
)


def alert_block(url: str) -> UUID:
    """Save the address as a notification block with its secret part encrypted; return the id of the block."""
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


def usual_night(client: SyncPrefectClient, collection: str = "") -> timedelta:
    """Return the median duration of the newest nights that were promoted or rejected; skipped nights are too short.

    Args:
        client: client of the Prefect server.
        collection: one of several collections on the server. Default: all nights.
    """
    tags = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag_of(collection)])) if collection else None
    nights = FlowFilter(name=FlowFilterName(any_=["nightly"]))
    runs = client.read_flow_runs(
        flow_filter=nights, flow_run_filter=tags, sort=FlowRunSort.START_TIME_DESC, limit=RECENT
    )
    whole = [run for run in runs if run.state and run.state.name in (Outcome.PROMOTED, Outcome.REJECTED)]
    durations = [run.total_run_time.total_seconds() for run in whole]
    return max(LEAST, timedelta(seconds=median(durations))) if durations else NEVER_RUN


def alarms(block: UUID, usual: timedelta, collection: str = "") -> list[AutomationCore]:
    """List the alarms: failed, rejected, overdue, not started, and no completed night for two days.

    Args:
        block: the notification block that receives them.
        usual: the usual duration of a night; a night is overdue after twice this time.
        collection: the collection whose runs they watch, if several share the server.
    """
    suffix = f" ({collection})" if collection else ""
    tags = [tag_resource(tag_of(collection))] if collection else []
    send = SendNotification(block_document_id=block, subject=SUBJECT, body=BODY)
    send_failure = SendNotification(block_document_id=block, subject=SUBJECT, body=FAILED_BODY)
    ended = ENDS | FAULTS | CANCELLED | {"prefect.flow-run.Completed"}
    nothing = SendNotification(
        block_document_id=block,
        subject=f"Nightshift: no night for two days{suffix}",
        body="No night was promoted, rejected, or skipped. Check that the worker runs and that the schedule is active.",
    )
    return [
        _alarm(
            f"failed or crashed{suffix}",
            "A run of Nightshift failed. Searches still get the last complete release.",
            send_failure,
            Posture.Reactive,
            match_related=[OURS, *tags],
            expect=FAULTS,
        ),
        _alarm(
            f"rejected or suspect{suffix}",
            "The gate rejected the challenger, the input is suspect, or labels are needed. Searches still work.",
            send,
            Posture.Reactive,
            match_related=[OURS, *tags],
            expect={
                f"prefect.flow-run.{outcome}" for outcome in (Outcome.REJECTED, Outcome.SUSPECT, Outcome.UNLABELED)
            },
        ),
        _alarm(
            f"overdue{suffix}",
            f"A night has been running for more than twice the usual time ({usual}).",
            send,
            Posture.Proactive,
            match_related=[A_NIGHT, *tags],
            after={"prefect.flow-run.Running"},
            expect=ended,
            for_each=EACH_RUN,
            within=2 * usual,
        ),
        _alarm(
            f"not started{suffix}",
            "A run was due and did not start within ten minutes. Check that the worker runs.",
            send,
            Posture.Proactive,
            match_related=[OURS, *tags],
            after={"prefect.flow-run.Pending", "prefect.flow-run.Late"},
            expect={"prefect.flow-run.Running"} | FAULTS | CANCELLED,
            for_each=EACH_RUN,
            within=LEAST,
        ),
        _alarm(
            f"no night for two days{suffix}",
            "No night has completed for two days.",
            nothing,
            Posture.Proactive,
            match_related=[A_NIGHT, *tags],
            expect=ENDS,
            within=timedelta(days=2),
        ),
    ]


def _alarm(name: str, about: str, action: SendNotification, posture: Posture, **trigger: Any) -> AutomationCore:
    """Build an alarm: a single event of a run raises it, or with a proactive posture its absence."""
    watch = EventTrigger(match=A_RUN, posture=posture, threshold=1, **trigger)
    return AutomationCore(name=f"Nightshift: {name}", description=about, trigger=watch, actions=[action])
