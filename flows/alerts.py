"""Alerts to the webhook at NIGHTSHIFT_ALERT_URL."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from tasks.core.base.errors import Unreachable


def is_slack(url: str) -> bool:
    """Return whether `url` is a Slack incoming webhook, which accepts only a `text` field."""
    return "hooks.slack.com" in url


def message(url: str, subject: str, body: str) -> dict[str, str]:
    """Build the JSON for the webhook at `url`. Subject and body may be templates."""
    text = {"text": f"{subject}\n{body}"}
    return text if is_slack(url) else {**text, "subject": subject, "body": body}


def send_alert(url: str, subject: str, body: str) -> None:
    """Post a message to the webhook at `url`.

    Raises Unreachable when the webhook does not accept the message. The error omits the URL, which is a secret.
    """
    data = json.dumps(message(url, subject, body)).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (the user's webhook)
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return
    except (OSError, ValueError) as error:
        raise Unreachable(f"the webhook at NIGHTSHIFT_ALERT_URL does not accept messages: {error}") from error
