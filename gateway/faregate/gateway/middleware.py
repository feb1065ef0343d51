"""What happens before and after every call: limits on body and time, metrics, safe headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from faregate.events import tracing
from faregate.gateway.connections import MAX_HEAD, MAX_HEADERS, head_too_large
from faregate.gateway.metrics import Metrics
from faregate.gateway.parsing import too_large
from faregate.gateway.problems import Problem
from faregate.gateway.settings import GatewaySettings

log = structlog.get_logger("faregate.gateway")

_STREAMING = "/chat/completions"
"""The end of paths whose answers take as long as their upstream does."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_UNTRACED = frozenset({"/health", "/ready", "/metrics"})
_SERVERS_FAULT = 500
_SAFE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""What every answer has that does not say otherwise: balances and tokens are in no cache."""
_PAGES = "/docs"
_LENGTH_DIGITS = 15


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
                message["headers"] = _with_safe_headers(scope, message)
            await send(message)

        try:
            problem = await self._bounded(scope, receive, sending, lambda: status)
            if problem is not None:
                await problem.to(scope).response()(scope, receive, sending)
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
        refused = _refused(scope, limit)
        if refused is not None:
            return refused
        body = _Body(receive, limit)
        try:
            async with asyncio.timeout(self._longest(scope["path"])):
                await self._app(scope, body.receive, send)
        except ClientDisconnect:  # it went before its request was complete: nobody to answer
            return None
        except _TooLarge:
            problem = too_large(limit)
        except TimeoutError:
            if status():
                raise
            gave_up = "The call took too long and was given up."
            late = late_body(self._settings.timeout_s)
            problem = late if body.awaited else Problem("check_unavailable", gave_up)
        except Exception as error:
            if status():
                raise
            route = getattr(scope.get("route"), "path", "unknown")
            log.exception("internal_error", route=route, error=type(error).__name__)
            problem = Problem("internal", "Something went wrong here; it was logged.")
        else:
            return None
        return None if status() else problem

    def _longest(self, path: str) -> float:
        """Give the seconds that a call may take; upstreams have theirs on top."""
        settings = self._settings
        if path.endswith(_STREAMING):
            return settings.llm.timeout_s + settings.llm.hold_margin_s + settings.timeout_s
        return settings.timeout_s


class _Body:
    """Counts what comes of a body. `awaited`: whether the application waits for more of it."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._seen = 0
        self._complete = False
        self.awaited = False

    async def receive(self) -> Message:
        """Give the next part. Raises _TooLarge."""
        self.awaited = not self._complete
        message = await self._receive()
        self.awaited = False
        self._complete = not message.get("more_body", False)
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise _TooLarge
        return message


def _refused(scope: Scope, limit: int) -> Problem | None:
    """Look at the head of a request: give the problem of one that is too large, or announces it."""
    headers, length = scope["headers"], b"0"
    size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"content-length":
            length = value
    if size > MAX_HEAD or len(headers) > MAX_HEADERS:
        return head_too_large()
    if not length.isdigit() or len(length) > _LENGTH_DIGITS or int(length) > limit:
        return too_large(limit)
    return None


def _with_safe_headers(scope: Scope, message: Message) -> list[tuple[bytes, bytes]]:
    headers = list(message.get("headers", []))
    said = {name.lower() for name, _ in headers}
    for name, value in _SAFE_HEADERS:
        if name not in said and not (name[:7] == b"content" and scope["path"] == _PAGES):
            headers.append((name, value))
    return headers


def late_body(limit_s: float) -> Problem:
    """Give the problem of a body that did not arrive in time."""
    text = f"The body did not arrive within {limit_s:g} s."
    return Problem("request_timeout", text, headers={"Connection": "close"})
