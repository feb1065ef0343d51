"""What happens before and after every call: limits on body and time, metrics, safe headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faregate.events import tracing
from faregate.gateway.metrics import Metrics
from faregate.gateway.parsing import too_large
from faregate.gateway.problems import Problem
from faregate.gateway.settings import GatewaySettings

log = structlog.get_logger("faregate.gateway")

_STREAMING = ("/v1/chat/", "/api/v1/llm/")
"""Paths whose answers take as long as their upstream does; they bound themselves."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_UNTRACED = frozenset({"/health", "/ready", "/metrics"})
_SERVERS_FAULT = 500
_SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


def _span(scope: Scope) -> AbstractContextManager[tracing.Span]:
    """Open the span of a call. It has no path, query or address: these tell who somebody is."""
    if scope["path"] in _UNTRACED:
        return tracing.NOTHING
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    said = {"http.request.method": method, "url.scheme": scope["scheme"]}
    return tracing.span(method, "server", attributes=said)


def _tell(span: tracing.Span, method: str, route: str, status: int) -> None:
    """Say how a call ended; 0: it got no answer."""
    span.named(f"{method} {route}")
    span.set({"http.route": route})
    if status:
        span.set({"http.response.status_code": status})
    if status >= _SERVERS_FAULT:
        span.failed(str(status))


class _TooLarge(Exception):
    """More came than a body may have."""


class Edge:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with tracing.within(tracing.context_in(scope["headers"])), _span(scope) as span:
            await self._answer(scope, receive, send, span)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, span: tracing.Span) -> None:
        began, status = perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_SAFE_HEADERS]
            await send(message)

        try:
            problem = await self._bounded(scope, receive, sending, lambda: status)
            if problem is not None:
                await problem.response()(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            self._metrics.answered(method, route, status, perf_counter() - began)
            _tell(span, method, route, status)

    async def _bounded(
        self, scope: Scope, receive: Receive, send: Send, status: Callable[[], int]
    ) -> Problem | None:
        """Run the application; give the problem to answer when it ran into a limit unanswered."""
        limit = self._settings.max_body
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > limit:
            return too_large(limit)
        seen = 0

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _TooLarge
            return message

        streaming = scope["path"].startswith(_STREAMING)
        try:
            async with asyncio.timeout(None if streaming else self._settings.timeout_s):
                await self._app(scope, receiving, send)
        except _TooLarge:
            return None if status() else too_large(limit)
        except TimeoutError:
            if status():
                raise
            return Problem("check_unavailable", "The call took too long and was given up.")
        except Exception as error:
            if status():
                raise
            route = getattr(scope.get("route"), "path", "unknown")
            log.exception("internal_error", route=route, error=type(error).__name__)
            return Problem("internal", "Something went wrong here; it was logged.")
        return None
