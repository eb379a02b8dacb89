"""Access control of the search service: host, token, and body size of requests; security headers of responses."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tasks.core.base.sections.service import ServiceSettings
from tasks.core.search import feedback
from tasks.core.search.reports import is_report

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_BYTES = 1 << 20  # largest request body
PUBLIC = {
    "/healthz",
    "/readyz",
    "/livez",
    "/",
    "/search.css",
    "/search.js",
}  # need no token: they contain no passages and no metrics
THIS_MACHINE = {"localhost", "127.0.0.1", "[::1]"}
REPORT = (  # reports are single files with inline styles and no scripts
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class AccessGuard:
    """ASGI middleware that checks host, token, and body size, and adds security headers to every response.

    Without a token, only requests to localhost are allowed, and the Host header must be a local name. This stops DNS
    rebinding: a page of another site cannot reach the service through the browser.
    """

    def __init__(self, app: App, settings: ServiceSettings) -> None:
        self._app, self._settings = app, settings
        self._token = settings.token.get_secret_value().encode()
        self._metrics_token = settings.metrics_token.get_secret_value().encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass the request to the application, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = {"content-security-policy": REPORT} if is_report(scope["path"]) else {}
                extra = [(name.encode(), value.encode()) for name, value in {**HEADERS, **policy}.items()]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        headers = {name.lower(): value for name, value in scope["headers"]}
        refusal = self._refusal(scope["path"], headers)
        body: bytes | None = b""
        limit = feedback.BODY_BYTES if scope["path"] == feedback.PATH else BODY_BYTES
        if refusal is None:
            try:
                body = await asyncio.wait_for(_body(receive, limit), self._settings.seconds)
            except TimeoutError:
                refusal = (408, "the request body did not arrive in time", "send the whole body at once")
        if body is None:
            refusal = (413, f"the body is larger than {limit} bytes", "send shorter or fewer queries per request")
        if refusal is not None:
            challenge = b'Basic realm="Nightshift reports"' if is_report(scope["path"]) else b"Bearer"
            await _refuse(with_headers, *refusal, challenge)
            return
        await self._app(scope, _replay(body or b"", receive), with_headers)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
        if not self._token:
            host = headers.get(b"host", b"").decode("latin-1")
            if host.rsplit(":", 1)[0] not in THIS_MACHINE and host not in THIS_MACHINE:
                return (
                    403,
                    "this service has no token, so it answers only to this machine",
                    "use http://127.0.0.1, or set NIGHTSHIFT_SERVICE__TOKEN for the service",
                )
            return None
        authorization = headers.get(b"authorization", b"").strip()
        if path in PUBLIC or hmac.compare_digest(authorization, b"Bearer " + self._token):
            return None
        if path == "/metrics" and self._metrics_token:
            if hmac.compare_digest(authorization, b"Bearer " + self._metrics_token):
                return None
        elif is_report(path):
            if hmac.compare_digest(_password(authorization), self._token):
                return None
            return 401, "the token is missing or wrong", "enter the token as the password, with any user name"
        return 401, "the token is missing or wrong", "send the header Authorization: Bearer …"


def _password(authorization: bytes) -> bytes:
    """Return the password in the header `Authorization: Basic …`; empty if there is none."""
    scheme, _, encoded = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except ValueError:
        return b""


async def _body(receive: Receive, limit: int) -> bytes | None:
    """Read the whole body; return None if it is too large (the rest is not read) or the client disconnected."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first yields the body that was already read."""
    replayed = False

    async def receive_again() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _refuse(send: Send, status: int, error: str, next_step: str, challenge: bytes) -> None:
    text = as_json(error, next_step)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    headers += [(b"connection", b"close")] if status in (408, 413) else []
    headers += [(b"www-authenticate", challenge)] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def as_json(error: str, next_step: str) -> bytes:
    """Return a `Refusal` as ASCII JSON, because the quoted text may contain characters that UTF-8 cannot encode."""
    return json.dumps({"error": error, "next": next_step}).encode()
