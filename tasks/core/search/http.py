"""HTTP server of the search service: routes, JSON errors, a search page, and graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from tasks.core.base.errors import Damaged, Impossible, NightshiftError, Unreachable
from tasks.core.base.settings import Settings
from tasks.core.base.tracing import start_tracing
from tasks.core.release.names import NoSuchRelease
from tasks.core.release.publisher import Loader, default_loader
from tasks.core.search.access import AccessGuard, as_json
from tasks.core.search.feedback import TooMany, VoteLog, add_feedback
from tasks.core.search.metrics import RequestCounter
from tasks.core.search.reports import add_reports
from tasks.core.search.requests import Health, Live, Refusal, Releases, SearchRequest, SearchResponse, Status
from tasks.core.search.service import Service, check_address
from tasks.core.search.worker_pool import Full, TooSlow
from tasks.core.sources.feedback_log import LogFull

log = logging.getLogger("nightshift.search")

PAGE = {
    "/": ("search.html", "text/html"),
    "/search.css": ("search.css", "text/css"),
    "/search.js": ("search.js", "text/javascript"),
}
CONNECTIONS = 256  # open connections, including idle ones
STATUS = (  # error type, HTTP status, seconds in the Retry-After header (0: no header)
    (TooMany, 429, 2),
    (LogFull, 507, 0),
    (Full, 503, 1),
    (TooSlow, 504, 0),
    (NoSuchRelease, 404, 0),
    (Impossible, 409, 0),
    (Unreachable, 503, 10),
    (NightshiftError, 503, 10),
)
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": Refusal} for code in (401, 403, 404, 408, 409, 413, 422, 503, 504)
}


def serve(settings: Settings, host: str, port: int, loader: Loader = default_loader) -> None:
    """Serve HTTP at `host`:`port` until SIGINT or SIGTERM. Requests in progress are answered before shutdown.

    Raises:
        NightshiftError: other machines can reach the address and there is no token; or the port is in use; or as
            `Searcher.open`; or as `start_tracing`.
    """
    check_address(host, settings.service)
    start_tracing()
    with _bound(host, port) as listening:
        config = uvicorn.Config(
            make_app(Service.open(settings, loader)),
            log_level="warning",
            access_log=False,  # URLs of the search page contain queries
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=int(settings.service.seconds) + 1,
        )
        log.info("serving http://%s:%d; press Ctrl-C to stop", host, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """Bind a socket to this address, without listening yet."""
    plain = host.strip("[]")
    # IPPROTO_TCP is needed: without it, asyncio does not set TCP_NODELAY, and each response waits 40 ms for the client
    # to acknowledge its first half.
    bound = socket.socket(socket.AF_INET6 if ":" in plain else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((plain, port))
    except OSError as error:
        bound.close()
        raise NightshiftError(f"{host}:{port}: cannot listen ({error}). Give another --port or --host") from error
    return bound


def make_app(service: Service) -> FastAPI:
    """Make the application of an open service. It closes the service on shutdown."""
    settings = service.settings
    votes = VoteLog(settings.home, settings.feedback, settings.service.seconds) if settings.feedback.collect else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if votes is not None:
            await asyncio.to_thread(votes.close)
        await asyncio.to_thread(service.close)

    # No documentation pages, because they load scripts from other sites.
    app = FastAPI(title="Nightshift search", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(AccessGuard, settings=settings.service)
    app.add_middleware(RequestCounter, metrics=service.metrics)
    _add_pages(app)
    add_reports(app, settings.home)
    if votes is not None:
        add_feedback(app, votes)
    _add_errors(app)

    @app.post("/search", response_model=SearchResponse, responses=REFUSALS)
    async def search(request: SearchRequest) -> Response:
        """Return the best passages for one or several queries, all from one release."""
        response = await service.answer(request)
        return Response(response.model_dump_json(), media_type="application/json")

    @app.get("/livez")
    async def livez() -> Live:
        """Report that the process responds, whether or not it can answer queries."""
        return Live()

    @app.get("/metrics", responses={401: {"model": Refusal}}, response_class=PlainTextResponse)
    def metrics(request: Request) -> Response:
        """Return the metrics of the service and of the last night for Prometheus."""
        text, kind = service.metrics.render(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": kind})

    @app.get("/readyz", responses={503: {"model": Health}})
    @app.get("/healthz", responses={503: {"model": Health}})
    async def healthz(response: Response) -> Health:
        """Report whether the service answers, and from which release; status 503 while it answers no query."""
        health = service.health()
        response.status_code = 503 if health.status is Status.FAILING else 200
        return health

    @app.get("/release", responses={401: {"model": Refusal}})
    def release() -> Releases:
        """Return the serving release, and all releases that can be searched by name."""
        return service.releases()

    return app


def _add_pages(app: FastAPI) -> None:
    for path, (name, kind) in PAGE.items():
        text = Path(__file__).with_name(name).read_text(encoding="utf-8")
        app.add_api_route(path, _page(text, kind), include_in_schema=False)


def _page(text: str, kind: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(text, media_type=kind)

    return page


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # Do not quote the input: it may be long, and need not be text.
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        fix = "fix the named fields"
        if request.method == "POST" and "json" not in request.headers.get("content-type", ""):
            fix = "send JSON with the header content-type: application/json"
        return _refusal(422, "; ".join(faults), f"{fix}; /openapi.json describes valid requests")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, str(error.detail), "/openapi.json describes valid requests")

    @app.exception_handler(NightshiftError)
    async def failed(request: Request, error: NightshiftError) -> Response:
        request.scope[RequestCounter.REJECTED] = isinstance(error, Full)
        status, wait = next((status, wait) for kind, status, wait in STATUS if isinstance(error, kind))
        if status == 503 and not isinstance(error, Full | Damaged):  # damage was logged when it was detected
            log.warning("a request failed: %s", error)
        return _refusal(status, str(error), _NEXT.get(status, "try again"), wait)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return _refusal(
            500, f"{type(error).__name__} in the service", "see the log of the service, and report the error"
        )


_NEXT = {
    404: "GET /release lists the releases",
    409: "search without it, or fix what the error names",
    429: "vote again later",
    503: "try again later; GET /healthz reports when the service answers",
    504: "send fewer queries or a smaller k, or try again",
    507: "raise [feedback] megabytes",
}


def _refusal(status: int, error: str, next_step: str, wait: int = 0) -> Response:
    headers = {"retry-after": str(wait)} if wait else {}
    return Response(as_json(error, next_step), status, headers, "application/json")
