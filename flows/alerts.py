"""Messages to the webhook that NIGHTSHIFT_ALERT_URL names."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from tasks.core.base.errors import Unreachable


def is_slack(url: str) -> bool:
    """Return whether `url` is an incoming webhook of Slack, which takes a text and nothing else."""
    return "hooks.slack.com" in url


def message(url: str, subject: str, body: str) -> dict[str, str]:
    """Build the JSON that the webhook at `url` takes; subject and body may be templates."""
    text = {"text": f"{subject}\n{body}"}
    return text if is_slack(url) else {**text, "subject": subject, "body": body}


def send_alert(url: str, subject: str, body: str) -> None:
    """Post a message to the webhook at `url`.

    Raises Unreachable when it does not take it; the address, which holds a secret, is not in the message.
    """
    data = json.dumps(message(url, subject, body)).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (the user's webhook)
    try:
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310
            return
    except (OSError, ValueError) as error:
        raise Unreachable(f"the webhook of NIGHTSHIFT_ALERT_URL does not take messages: {error}") from error
