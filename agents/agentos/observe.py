"""What is seen of each request from outside: a request id, a line in the log, metrics."""

import logging
import re
from time import perf_counter

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentos import context

# Asked every few seconds by whoever watches; a line for each would bury the rest.
_QUIET_PATHS = frozenset({"/health", "/ready", "/metrics"})
# Others are counted as one.
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

logger = logging.getLogger("agentos.access")


class Metrics:
    """The service's metrics, in a registry of its own."""

    def __init__(self) -> None:
        """Start counting."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "agentos_http_requests",
            "HTTP requests that were answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "agentos_http_request_duration_seconds",
            "Time to the end of the answer",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.in_progress = Gauge(
            "agentos_requests_in_progress",
            "HTTP requests and WebSocket connections now being served",
            ("type",),
            registry=self.registry,
        )

    def response(self) -> Response:
        """Give all metrics in Prometheus's text format."""
        return Response(
            generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class Observe:
    """Gives each request a context, and writes down how it went.

    It is the outermost of all, so that it sees refusals and errors too.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand before `app`."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or a WebSocket connection."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        current = context.begin(given if _REQUEST_ID.fullmatch(given) else None)
        status = 101 if scope["type"] == "websocket" else 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = current.request_id
            await send(message)

        started = perf_counter()
        running = self._metrics.in_progress.labels(scope["type"])
        running.inc()
        try:
            await self._app(scope, receive, observed_send)
        finally:
            running.dec()
            self._write_down(scope, status, perf_counter() - started)

    def _write_down(self, scope: Scope, status: int, seconds: float) -> None:
        # What a route is called in the API's description: paths are without number.
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope.get("method", "WEBSOCKET")
        if scope["type"] == "http":
            counted = method if method in _METHODS else "other"
            self._metrics.requests.labels(counted, route, status).inc()
            self._metrics.seconds.labels(counted, route).observe(seconds)
        if status < 400 and scope["path"] in _QUIET_PATHS:
            return
        client = scope.get("client")
        logger.info(
            "%s %s %s",
            method,
            scope["path"],
            status,
            extra={
                "method": method,
                "path": scope["path"],
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 1),
                "client": client[0] if client else None,
            },
        )
